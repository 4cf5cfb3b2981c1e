"""Which node runs which agents of a fleet."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from paddock.model.agent import NodeStatus


def place(
    names: Sequence[str],
    nodes: Sequence[NodeStatus],
    current: Mapping[str, Iterable[str]],
    *,
    load: Mapping[str, int] | None = None,
) -> dict[str, list[str]]:
    """Node → the names that it should run, in the order of `names`; a key for every node given, none when none is.

    An agent stays where it is (`current`) while its node is among `nodes`: moving means restarting, so a new node gets
    only what is new or homeless. Those go where the fewest of this fleet are; equals by `load` (agents of all fleets
    on the node; default: what the node itself says), then by node id. The caller passes only nodes that live: what
    stood on others is placed anew. A name that stands on two nodes stays on the one with the smaller id.
    """
    placed: dict[str, list[str]] = {node.id: [] for node in sorted(nodes, key=lambda node: node.id)}
    if not placed:
        return {}
    # The smallest id last, so that it wins.
    home = {name: node for node in reversed(list(placed)) for name in current.get(node, ())}
    wanted = dict.fromkeys(names)
    kept = dict.fromkeys(placed, 0)
    for name in wanted:
        if name in home:
            kept[home[name]] += 1
    busy = {node.id: node.agents for node in nodes} if load is None else load
    heap = [(count, busy.get(node, 0), node) for node, count in kept.items()]
    heapq.heapify(heap)
    for name in wanted:
        if name not in home:
            count, others, node = heap[0]
            home[name] = node
            heapq.heapreplace(heap, (count + 1, others + 1, node))
    for name in wanted:
        placed[home[name]].append(name)
    return placed

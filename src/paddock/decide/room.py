"""Whether so many agents fit on the nodes that there are."""

from __future__ import annotations

from collections.abc import Sequence

from paddock.model.agent import NodeStatus


def lack(wanted: int, nodes: Sequence[NodeStatus]) -> str:
    """Why `wanted` agents, of all fleets together, do not fit on `nodes`; empty: they do, or nobody can say: there is
    no node, or one that does not tell its room."""
    if not nodes or not all(node.agents_max for node in nodes):
        return ""
    room = sum(node.agents_max for node in nodes)
    if wanted <= room:
        return ""
    least = min(nodes, key=lambda node: (node.agents_max, node.id))
    return (
        f"{wanted:,} agents in all do not fit: there is room for {room:,}. Node {least.id} takes {least.agents_max:,}, "
        f"by {least.agents_max_why} and start the node anew, or add a node"
    )

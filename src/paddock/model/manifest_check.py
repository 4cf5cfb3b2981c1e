"""What is judged of all fleets together: whom they depend on, who stands in, and which fixed ports they take."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Mapping

from paddock.model.fleet import FleetSpec
from paddock.model.manifest_build import where_of
from paddock.model.shapes import nearest
from paddock.model.yaml_source import Leaf, Listing, Mistakes, Node, Table, Where, short

_SHOWN_MAX = 12
"""Members of a circle that are printed; longer ones are cut."""


def check_together(
    specs: Mapping[str, FleetSpec],
    places: Mapping[str, Table],
    others: Mapping[str, FleetSpec],
    mistakes: Mistakes,
    *,
    declared: Collection[str],
) -> None:
    """Tell what is wrong between fleets. `declared` also has those whose own mistakes kept them out of `specs`, so
    that one mistake is not told twice."""
    _check_dependencies(specs, places, {*declared, *others}, mistakes)
    together = {**others, **specs}
    _check_cycles(together, places, mistakes)
    _check_ports(together, places, mistakes)


def check_standbys(
    policies: Mapping[str, Node], known: Collection[str], places: Mapping[str, Table], mistakes: Mistakes
) -> None:
    """A standby is a fleet, and another one than it stands in for."""
    for name, policy in policies.items():
        node = policy.entries.get("standby") if isinstance(policy, Table) else None
        if not isinstance(node, Leaf) or not node.text:
            continue
        if node.text not in known:
            hint = nearest(node.text, known)
            mistakes.add(node.where, f"the standby {short(node.text)} of policy {name} is no fleet{hint}")
        tree = places.get(node.text)
        named = tree.entries.get("policy") if tree is not None else None
        if tree is not None and (named.text if isinstance(named, Leaf) else "default") == name:
            where = named.where if named is not None else node.where
            mistakes.add(where, f"{node.text} would be its own standby by policy {name}; give it another policy")


def _check_dependencies(
    specs: Mapping[str, FleetSpec], places: Mapping[str, Table], known: Collection[str], mistakes: Mistakes
) -> None:
    for name, spec in specs.items():
        for index, wanted in enumerate(spec.depends_on):
            if wanted not in known:
                hint = nearest(wanted, known)
                where = _item(places[name], "depends_on", index)
                mistakes.add(where, f"{name} depends on the fleet {wanted!r}, which does not exist{hint}")


def _check_cycles(together: Mapping[str, FleetSpec], places: Mapping[str, Table], mistakes: Mistakes) -> None:
    graph = {name: spec.depends_on for name, spec in together.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # The library lists a cycle from the one needed to the one that needs it; people read it the other way.
        cycle = list(reversed(error.args[1]))
        # It starts where it starts in the manifest, however the library found it.
        members = cycle[:-1]
        first = next((name for name in places if name in members), members[0])
        at = members.index(first)
        circle = [*members[at:], *members[:at], first]
        if len(circle) > _SHOWN_MAX:
            circle = [*circle[: _SHOWN_MAX - 2], f"({len(circle) - _SHOWN_MAX + 1} more)", first]
        shown = " → ".join(circle)
        if first in places:
            mistakes.add(where_of(places[first], "depends_on"), f"fleets depend on each other in a circle: {shown}")


def _check_ports(together: Mapping[str, FleetSpec], places: Mapping[str, Table], mistakes: Mistakes) -> None:
    # Fleets that exist already stand first, so that a clash is told at the manifest's own fleet.
    taken: dict[str, str] = {}
    for name, spec in sorted(together.items(), key=lambda item: item[0] in places):
        for entry in spec.ports:
            port, _, number = entry.partition("=")
            if not number:
                continue
            if number in taken:
                if name in places:
                    mistakes.add(
                        where_of(places[name], "ports", port),
                        f"port clash: {name}.{port} and {taken[number]} both want the fixed port {number}; change one",
                    )
                continue
            taken[number] = f"{name}.{port}"


def _item(tree: Table, key: str, index: int) -> Where:
    node = tree.entries[key]
    return node.items[index].where if isinstance(node, Listing) else node.where

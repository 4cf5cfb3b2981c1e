"""From manifest text to frozen specs; every mistake is told with line and column.

Top to bottom: each source becomes a tree (`yaml_source`), its sections are gathered over all sources, each fleet is
laid over its template, read by the known fields (`manifest_fields`), made into a spec with its policy, and then all
fleets are judged together: dependencies, cycles, fixed ports, standbys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from paddock.model.errors import Refused
from paddock.model.fleet import FleetSpec
from paddock.model.manifest_build import SPEC_BYTES_MAX, build
from paddock.model.manifest_check import check_standbys, check_together
from paddock.model.manifest_fields import FLEET, NOT_USED, TEMPLATE, TOP_KEYS, schema
from paddock.model.manifest_notify import build_notifications
from paddock.model.manifest_policy import build_policy
from paddock.model.manifest_words import NAME_TEXT
from paddock.model.notify import Notifications
from paddock.model.policy import Policy
from paddock.model.shapes import nearest, wrong_type
from paddock.model.yaml_source import (
    CHARS_MAX,
    NODES_MAX,
    Leaf,
    ManifestSource,
    Mistakes,
    Node,
    Table,
    Where,
    Wrong,
    merged,
    parse,
    short,
    table,
)

__all__ = ["FLEETS_MAX", "SPEC_BYTES_MAX", "Manifest", "ManifestSource", "load", "schema"]

VERSION = 1
SOURCES_MAX = 100
FLEETS_MAX = 1000
_TOGETHER = 5
"""All fleets, laid over their templates, may weigh this many times what one manifest may."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All sources together, checked and resolved."""

    fleets: dict[str, FleetSpec]
    notifications: Notifications | None = None
    """None: the manifest says nothing of them, and those that there are stay."""
    warnings: list[str] = []


def load(sources: Sequence[ManifestSource], *, others: Mapping[str, FleetSpec] | None = None) -> Manifest:
    """Read all sources as one manifest, or raise Refused with up to ten mistakes.

    `others` are fleets that exist already and stay: these may be depended on, and their fixed ports are taken.
    """
    if not sources:
        raise Refused("no manifest was given; name at least one file")
    if len(sources) > SOURCES_MAX:
        raise Refused(f"{len(sources):,} manifests were given, over the limit of {SOURCES_MAX}; put several into one")
    return _Reader().read(sources, others or {})


class _Reader:
    def __init__(self) -> None:
        self._mistakes = Mistakes()
        self._warnings: list[str] = []
        self._templates: dict[str, tuple[Where, Table | None]] = {}
        """Name → where, and its fields; None when they have mistakes."""
        self._fleets: dict[str, tuple[Where, Node]] = {}
        self._policies: dict[str, tuple[Where, Node, Policy | None]] = {}
        """None when they have mistakes."""
        self._notifications: tuple[Where, Node] | None = None
        self._nodes = self._chars = 0

    def read(self, sources: Sequence[ManifestSource], others: Mapping[str, FleetSpec]) -> Manifest:
        for source in sources:
            self._source(source)
        specs: dict[str, FleetSpec] = {}
        places: dict[str, Table] = {}
        for name, (where, node) in self._fleets.items():
            try:
                tree = self._over_template(name, where, node)
                spec = self._spec(name, tree) if tree else None
            except Wrong as wrong:
                self._mistakes.add(wrong.where, wrong.text)
                continue
            if tree and spec:
                specs[name], places[name] = spec, tree
        check_together(specs, places, others, self._mistakes, declared=self._fleets.keys())
        known = {*self._fleets, *others}
        check_standbys({name: node for name, (_, node, _) in self._policies.items()}, known, places, self._mistakes)
        notifications = None
        if self._notifications is not None:
            notifications = build_notifications(self._notifications[1], known, self._mistakes, self._warnings)
        self._mistakes.refuse()
        if not specs and notifications is None:
            self._warnings.append("no fleets are named, so nothing is to run")
        return Manifest(fleets=specs, notifications=notifications, warnings=self._warnings)

    def _source(self, source: ManifestSource) -> None:
        root = parse(source, self._mistakes)
        if root is None:
            return
        if not isinstance(root, Table):
            self._mistakes.add(root.where, "a manifest is a mapping; begin with 'paddock: 1' and 'fleets:'")
            return
        if not self._version(root):
            return
        for key, node in root.entries.items():
            where = root.keys[key]
            if key not in TOP_KEYS:
                hint = nearest(key, TOP_KEYS) or f"; known are {', '.join(TOP_KEYS)}"
                self._mistakes.add(where, f"unknown key {short(key)}{hint}")
            elif key == "paddock":
                continue
            elif not isinstance(node, Table):
                wrong = wrong_type(node, key, "a mapping")
                self._mistakes.add(wrong.where, wrong.text)
            elif key in NOT_USED:
                self._warnings.append(f"{where}: {key} is read but not used by this version")
            elif key == "notifications":
                self._notify(where, node)
            else:
                self._section(key, node)

    def _notify(self, where: Where, node: Node) -> None:
        if self._notifications is not None:
            first = self._notifications[0]
            self._mistakes.add(where, f"notifications are there already: {first}; they apply as a whole, so write one")
        else:
            self._notifications = (where, node)

    def _version(self, root: Table) -> bool:
        """Whether this source is of the version that is read here; nothing else can be judged otherwise."""
        node = root.entries.get("paddock")
        if node is None:
            hint = "; add 'paddock: 1' at its top"
            self._mistakes.add(root.where, f"the manifest does not say its version{hint}")
        elif not isinstance(node, Leaf) or isinstance(node.value, bool) or node.value != VERSION:
            said = f" {short(node.text, 20)}" if isinstance(node, Leaf) else ""
            self._mistakes.add(node.where, f"paddock{said} is not a version read here; this Paddock reads version 1")
        else:
            return True
        return False

    def _section(self, key: str, section: Table) -> None:
        kind = {"templates": "template", "policies": "policy"}.get(key, "fleet")
        known: Mapping[str, tuple[Any, ...]] = self._fleets
        if key != "fleets":
            known = self._templates if key == "templates" else self._policies
        for name, node in section.entries.items():
            where = section.keys[name]
            first = known.get(name)
            if first is not None:
                self._mistakes.add(
                    where, f"the {kind} {short(name)} is there already: {first[0]}; remove or rename one"
                )
                continue
            try:
                NAME_TEXT.read(Leaf(where, text=name, value=name), kind, self._mistakes)
            except Wrong as wrong:
                self._mistakes.add(wrong.where, wrong.text)
            if key == "templates":
                self._templates[name] = (where, self._template(name, node))
            elif key == "policies":
                self._policies[name] = (where, node, build_policy(name, node, self._mistakes, self._warnings))
            else:
                self._fleets[name] = (where, node)
        if len(self._fleets) > FLEETS_MAX:
            self._mistakes.add(
                section.where, f"there are {len(self._fleets):,} fleets, over the limit of {FLEETS_MAX:,}"
            )
            self._mistakes.refuse()

    def _template(self, name: str, node: Node) -> Table | None:
        """Its fields, read once by themselves, so that a mistake in a template is told once and not for each fleet."""
        before = len(self._mistakes)
        try:
            TEMPLATE.read(node, f"templates.{name}", self._mistakes)
        except Wrong as wrong:
            self._mistakes.add(wrong.where, wrong.text)
        return node if isinstance(node, Table) and len(self._mistakes) == before else None

    def _over_template(self, name: str, where: Where, node: Node) -> Table | None:
        """The fleet's fields laid over its template's; None when the template is broken or missing (and told)."""
        if not isinstance(node, Table):
            raise wrong_type(node, f"fleets.{name}", "a mapping")
        wanted = node.entries.get("template")
        tree: Table | None = node
        if isinstance(wanted, Leaf):
            if wanted.text not in self._templates:
                hint = nearest(wanted.text, self._templates)
                self._mistakes.add(wanted.where, f"there is no template {short(wanted.text)}{hint}")
                tree = None
            else:
                under = self._templates[wanted.text][1]
                tree = merged(_without_rivals(under, node), node) if under else None
        if tree is None:
            FLEET.read(node, f"fleets.{name}", self._mistakes)
            return None
        self._nodes, self._chars = self._nodes + tree.nodes, self._chars + tree.chars
        if self._nodes > NODES_MAX * _TOGETHER or self._chars > CHARS_MAX * _TOGETHER:
            self._mistakes.add(where, "all fleets with their templates are too large together; apply them in parts")
            self._mistakes.refuse()
        return tree

    def _spec(self, name: str, tree: Table) -> FleetSpec | None:
        before = len(self._mistakes)
        values = FLEET.read(tree, f"fleets.{name}", self._mistakes)
        if len(self._mistakes) > before:
            return None
        policy = self._policy(values.pop("policy", ""), tree)
        if policy is None:
            return None
        spec = build(name, tree, values, policy, self._mistakes, self._warnings)
        return spec if len(self._mistakes) == before else None

    def _policy(self, name: str, tree: Table) -> Policy | None:
        """The policy that a fleet names, else the one called `default`, else the built-in one; None when it is broken
        or missing (and told)."""
        if not name:
            default = self._policies.get("default")
            return default[2] if default else Policy()
        if name not in self._policies:
            hint = nearest(name, self._policies)
            self._mistakes.add(tree.entries["policy"].where, f"there is no policy {short(name)}{hint}")
            return None
        return self._policies[name][2]


def _without_rivals(under: Table, over: Table) -> Table:
    """The template without what the fleet decides otherwise: a command against its agent, owners against its number."""
    dropped: set[str] = set()
    for one, other in (("agent", "command"), ("replicas", "owners")):
        for mine, theirs in ((one, other), (other, one)):
            if mine in over.entries and theirs in under.entries:
                dropped |= {theirs, "runtime"} if one == "agent" else {theirs}
    entries = {key: value for key, value in under.entries.items() if key not in dropped}
    return table(under.where, entries, under.keys)

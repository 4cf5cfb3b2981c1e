"""The shape of a mapping whose `kind` says which of the other keys count: probes, channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock.model.shapes import Record, Schema, described
from paddock.model.yaml_source import Leaf, Mistakes, Node, Table


@dataclass(frozen=True)
class Kind:
    """What one kind needs, and what it may have besides."""

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


@dataclass(frozen=True)
class ByKind:
    """`record` has all keys of all kinds; those that no kind names may stand with any."""

    record: Record
    kinds: Mapping[str, Kind]
    hints: Mapping[str, str]
    """Unknown keys that people try, and what to write instead."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> dict[str, Any]:
        if isinstance(node, Table):
            node = self._without_hinted(node, path, mistakes)
        found = self.record.read(node, path, mistakes)
        kind = self.kinds.get(found.get("kind", ""))
        if kind is None or not isinstance(node, Table):
            return found
        special = self._special()
        for key in node.entries:
            if key in special and key not in kind.needs + kind.may:
                those = ", ".join(kind.needs + kind.may) or "no key of its own"
                mistakes.add(
                    node.keys[key],
                    f"{path}.{key} means nothing with kind {found['kind']}, which has {those}; remove it",
                )
        for key in kind.needs:
            if key not in node.entries:
                doc = self.record.fields[key].doc
                mistakes.add(node.where, f"{path} is of kind {found['kind']} and lacks {key!r}: {doc}")
        return found

    def schema(self) -> Schema:
        fields = self.record.fields
        common = fields.keys() - self._special()
        choices = []
        for name, kind in self.kinds.items():
            keys = [key for key in fields if key in common or key in kind.needs + kind.may]
            properties = {key: described(fields[key]) for key in keys} | {"kind": {"const": name}}
            needed = [key for key in keys if fields[key].required or key in kind.needs]
            choices.append(
                {"type": "object", "additionalProperties": False, "properties": properties, "required": needed}
            )
        return {"oneOf": choices}

    def _special(self) -> set[str]:
        return {key for kind in self.kinds.values() for key in kind.needs + kind.may}

    def _without_hinted(self, node: Table, path: str, mistakes: Mistakes) -> Table:
        """Tell of keys that have a hint of their own; the rest is read as if they were not there."""
        hinted = [key for key in node.entries if key not in self.record.fields and key in self.hints]
        for key in hinted:
            mistakes.add(node.keys[key], f"{path}: {self.hints[key]}")
        if not hinted:
            return node
        entries = {key: value for key, value in node.entries.items() if key not in hinted}
        return Table(node.where, node.nodes, node.chars, node.height, entries, node.keys)


def leaf_text(node: Node) -> str:
    """The text of a scalar as written; empty for anything else."""
    return node.text if isinstance(node, Leaf) else ""

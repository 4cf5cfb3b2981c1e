"""The shapes a manifest's values may have. Each reads a value from the tree and describes itself in JSON Schema, so
that what is accepted and what is published cannot drift apart.

A shape raises `Wrong` for its own value; lists and records collect the mistakes of their parts and go on.
Messages never hold values of free text: they may be secrets.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from paddock.model.yaml_source import Leaf, Listing, Mistakes, Node, Table, Where, Wrong, short

Schema = dict[str, Any]

TEXT_CHARS_MAX = 32_768
DURATION_S_MAX = 366 * 86_400.0
SIZE_BYTES_MAX = 2**50
_SPELLED_YES_NO = {"yes": True, "on": True, "no": False, "off": False}
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_UNITS_BYTES = {"": 1, "b": 1} | {
    prefix + end: (1024 if end == "ib" else 1000) ** power
    for power, prefix in enumerate("kmgt", start=1)
    for end in ("b", "ib")
}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgGtT]?[iI]?[bB])")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
_PLAIN_TYPES: list[str] = ["string", "number", "boolean"]


class Shape(Protocol):
    def read(self, node: Node, path: str, mistakes: Mistakes) -> Any:
        """The value; `Wrong` when it is not of this shape. `path` names it in messages: `health.http`."""
        ...

    def schema(self) -> Schema: ...


def kind_of(node: Node) -> str:
    """What a value is, in words for messages."""
    if isinstance(node, Table):
        return "a mapping"
    if isinstance(node, Listing):
        return "a list"
    value = node.value if isinstance(node, Leaf) else None
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "a text"


def wrong_type(node: Node, path: str, wanted: str) -> Wrong:
    if isinstance(node, Leaf) and node.value is None:
        return Wrong(node.where, f"{path} has no value; write {wanted}, or remove the line")
    hint = ""
    if isinstance(node, Table) and len(node.entries) == 1:
        [(key, value)] = node.entries.items()
        if isinstance(value, Leaf) and value.value is None:
            # {port} without quotes is a mapping to YAML.
            hint = f"; put quotes around {{{key[:40]}}}"
    return Wrong(node.where, f"{path} must be {wanted}, not {kind_of(node)}{hint}")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'replicas'?`, or nothing when no known word is near."""
    folded = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(word[:80].lower().replace("-", "_"), folded, n=1, cutoff=0.55)
    return f"; did you mean {folded[found[0]]!r}?" if found else ""


@dataclass(frozen=True)
class Text:
    """A text; numbers and booleans count as the text they are written as."""

    pattern: str = ""
    what: str = "a text"
    shown: bool = True
    """Whether a message may show the value."""
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False

    def read(self, node: Node, path: str, mistakes: Mistakes) -> str:
        if not isinstance(node, Leaf) or node.value is None:
            raise wrong_type(node, path, self.what)
        text = node.text
        if "\0" in text:
            raise Wrong(node.where, f"{path} holds a NUL character; remove it")
        if len(text) > TEXT_CHARS_MAX:
            raise Wrong(node.where, f"{path} is longer than {TEXT_CHARS_MAX:,} characters; keep it in a file")
        said = f" {short(text)}" if self.shown else ""
        if self.choices and text not in self.choices:
            allowed = ", ".join(self.choices)
            raise Wrong(node.where, f"{path}{said} is not one of {allowed}{nearest(text, self.choices)}")
        if self.pattern and not re.fullmatch(self.pattern, text):
            raise Wrong(node.where, f"{path}{said} is not {self.what}")
        if not text and not self.may_be_empty:
            raise Wrong(node.where, f"{path} is empty; write {self.what}, or remove the line")
        return text

    def schema(self) -> Schema:
        if self.choices:
            return {"enum": list(self.choices)}
        if self.pattern:
            # Numbers and booleans pass as the text they are written as, which a pattern does not see.
            return {"type": _PLAIN_TYPES, "pattern": f"^(?:{self.pattern})$", "description": self.what}
        return {"type": _PLAIN_TYPES} | ({} if self.may_be_empty else {"minLength": 1})


@dataclass(frozen=True)
class YesNo:
    def read(self, node: Node, path: str, mistakes: Mistakes) -> bool:
        if isinstance(node, Leaf):
            value = _SPELLED_YES_NO.get(node.text.lower(), node.value)
            if isinstance(value, bool):
                return value
        raise wrong_type(node, path, "true or false")

    def schema(self) -> Schema:
        return {"enum": [True, False, *_SPELLED_YES_NO]}


def _number(node: Node, path: str, low: float, high: float, *, wanted: str) -> float:
    if not isinstance(node, Leaf) or isinstance(node.value, bool) or not isinstance(node.value, int | float):
        if isinstance(node, Leaf) and re.fullmatch(r"[-+]?0[0-9]+", node.text):
            raise Wrong(
                node.where, f"{path} is written {short(node.text)}, which may mean two numbers; write no 0 first"
            )
        raise wrong_type(node, path, wanted)
    if isinstance(node.value, float) and not math.isfinite(node.value):
        raise Wrong(node.where, f"{path} must be a finite number, not {node.text[:20]}")
    if not low <= node.value <= high:
        raise Wrong(node.where, f"{path} is {short(node.text, 24)[1:-1]}, but must be from {low:,g} to {high:,.15g}")
    return node.value


@dataclass(frozen=True)
class Whole:
    low: int
    high: int

    def read(self, node: Node, path: str, mistakes: Mistakes) -> int:
        value = _number(node, path, self.low, self.high, wanted="a whole number")
        if not isinstance(value, int):
            raise Wrong(node.where, f"{path} must be a whole number, not {short(str(value))[1:-1]}")
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Amount:
    low: float
    high: float

    def read(self, node: Node, path: str, mistakes: Mistakes) -> float:
        if isinstance(node, Leaf) and (percent := _PERCENT.fullmatch(node.text)):
            hint = f"; write {float(percent[1]) / 100:g} for {short(node.text)}" if self.high <= 1 else ""
            raise Wrong(node.where, f"{path} must be a number, not a text{hint}")
        return float(_number(node, path, self.low, self.high, wanted="a number"))

    def schema(self) -> Schema:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Duration:
    """Seconds, or a text such as `30s`, `1h30m`, `250ms`."""

    low: float = 0.0
    high: float = DURATION_S_MAX

    def read(self, node: Node, path: str, mistakes: Mistakes) -> float:
        wanted = "seconds or a text such as 30s, 5m or 1h30m"
        if not isinstance(node, Leaf) or not isinstance(node.value, str):
            return float(_number(node, path, self.low, self.high, wanted=wanted))
        if len(node.text) > 40 or not _DURATION.fullmatch(node.text):
            raise Wrong(node.where, f"{path} {short(node.text)} is not a duration; write {wanted}")
        value = sum(float(count) * _UNITS_S[unit] for count, unit in _DURATION_PART.findall(node.text))
        if not self.low <= value <= self.high:
            raise Wrong(node.where, f"{path} is {value:g} seconds, but must be from {self.low:g} to {self.high:,.15g}")
        return value

    def schema(self) -> Schema:
        number = {"type": "number", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [number, {"type": "string", "pattern": f"^{_DURATION.pattern}$"}]}


@dataclass(frozen=True)
class Size:
    """Bytes, or a text such as `64MiB`. 0, where it is allowed, means: no limit."""

    low: int
    zero: bool = False

    def read(self, node: Node, path: str, mistakes: Mistakes) -> int:
        wanted = "bytes or a text such as 64MiB or 10MB"
        if isinstance(node, Leaf) and isinstance(node.value, str):
            found = _SIZE.fullmatch(node.text) if len(node.text) <= 40 else None
            if found is None:
                raise Wrong(node.where, f"{path} {short(node.text)} is not a size; write {wanted}")
            value = int(float(found[1]) * _UNITS_BYTES[found[2].lower()])
        else:
            number = _number(node, path, 0, SIZE_BYTES_MAX, wanted=wanted)
            if not isinstance(number, int):
                raise wrong_type(node, path, "whole " + wanted)
            value = number
        if value > SIZE_BYTES_MAX or (value < self.low and not (self.zero and value == 0)):
            raise Wrong(
                node.where,
                f"{path} is {value:,} bytes, but must be from {self.low:,} to {SIZE_BYTES_MAX:,}; is the unit missing?",
            )
        return value

    def schema(self) -> Schema:
        number: Schema = {"type": "integer", "minimum": self.low, "maximum": SIZE_BYTES_MAX}
        zero: list[Schema] = [{"const": 0}] if self.zero else []
        return {"anyOf": [number, *zero, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}


@dataclass(frozen=True)
class ListOf:
    item: Shape
    length_max: int = 1000
    length_min: int = 0
    unique: bool = True
    """Texts, or records by their `name`, may stand only once."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> list[Any]:
        if not isinstance(node, Listing):
            raise wrong_type(node, path, "a list")
        if not self.length_min <= len(node.items) <= self.length_max:
            raise Wrong(
                node.where,
                f"{path} has {len(node.items):,} entries, but must have {self.length_min} to {self.length_max:,}",
            )
        found: list[Any] = []
        seen: dict[str, Where] = {}
        for index, entry in enumerate(node.items):
            try:
                value = self.item.read(entry, f"{path}[{index}]", mistakes)
            except Wrong as wrong:
                mistakes.add(wrong.where, wrong.text)
                continue
            name = value.get("name") if isinstance(value, Mapping) else value
            if isinstance(name, str) and self.unique:
                if name in seen:
                    mistakes.add(entry.where, f"{path} has {short(name)} twice, first in line {seen[name].line}")
                seen.setdefault(name, entry.where)
            found.append(value)
        return found

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "items": self.item.schema(), "maxItems": self.length_max}
        return (
            schema
            | ({"uniqueItems": True} if self.unique else {})
            | ({"minItems": self.length_min} if self.length_min else {})
        )


@dataclass(frozen=True)
class MapOf:
    """A mapping with keys that people choose."""

    key: Text
    value: Shape
    length_max: int = 1000

    def read(self, node: Node, path: str, mistakes: Mistakes) -> dict[str, Any]:
        if not isinstance(node, Table):
            raise wrong_type(node, path, "a mapping")
        if len(node.entries) > self.length_max:
            raise Wrong(node.where, f"{path} has {len(node.entries):,} entries, over the limit of {self.length_max:,}")
        found: dict[str, Any] = {}
        for key, value in node.entries.items():
            where = node.keys[key]
            try:
                name = self.key.read(Leaf(where, text=key, value=key), f"{path}: the name", mistakes)
                found[name] = self.value.read(value, f"{path}.{key[:80]}", mistakes)
            except Wrong as wrong:
                mistakes.add(wrong.where, wrong.text)
        return found

    def schema(self) -> Schema:
        choices = list(self.key.choices)
        names: Schema = {"enum": choices} if choices else {"pattern": f"^(?:{self.key.pattern})$"}
        value = self.value.schema()
        return {
            "type": "object",
            "propertyNames": names,
            "additionalProperties": value,
            "maxProperties": self.length_max,
        }


@dataclass(frozen=True)
class Anything:
    """Whatever JSON can hold: finite numbers, whole numbers of 64 bits."""

    mapping: bool = True

    def read(self, node: Node, path: str, mistakes: Mistakes) -> Any:
        if self.mapping and not isinstance(node, Table):
            raise wrong_type(node, path, "a mapping")
        return self._read(node, path)

    def _read(self, node: Node, path: str) -> Any:
        if isinstance(node, Table):
            return {key: self._read(value, f"{path}.{key[:80]}") for key, value in node.entries.items()}
        if isinstance(node, Listing):
            return [self._read(item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        value = node.value if isinstance(node, Leaf) else None
        if isinstance(value, float) and not math.isfinite(value):
            raise Wrong(node.where, f"{path} is not a finite number, which JSON cannot hold; write it in quotes")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise Wrong(node.where, f"{path} is a number of more than 64 bits; write it in quotes")
        return value

    def schema(self) -> Schema:
        return {"type": "object"} if self.mapping else {}


@dataclass(frozen=True)
class Field:
    shape: Shape
    doc: str
    required: bool = False


@dataclass(frozen=True)
class Record:
    """A mapping with known keys; reads into a dict of those that are given."""

    fields: Mapping[str, Field]
    what: str = ""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> dict[str, Any]:
        if not isinstance(node, Table):
            raise wrong_type(node, path or "the manifest", "a mapping")
        found: dict[str, Any] = {}
        for key, value in node.entries.items():
            known = self.fields.get(key)
            if known is None:
                at = f" in {path}" if path else ""
                hint = nearest(key, self.fields) or f"; known are {', '.join(self.fields)}"
                mistakes.add(node.keys[key], f"unknown key {short(key)}{at}{hint}")
                continue
            try:
                found[key] = known.shape.read(value, f"{path}.{key}" if path else key, mistakes)
            except Wrong as wrong:
                mistakes.add(wrong.where, wrong.text)
        for key, known in self.fields.items():
            if known.required and key not in node.entries:
                mistakes.add(node.where, f"{path} lacks {key!r}: {known.doc}" if path else f"{key!r} is missing")
        return found

    def schema(self) -> Schema:
        properties = {name: described(entry) for name, entry in self.fields.items()}
        required = [name for name, entry in self.fields.items() if entry.required]
        schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
        return schema | ({"required": required} if required else {})


def described(entry: Field) -> Schema:
    """The schema of a field with its meaning."""
    return {**entry.shape.schema(), "description": entry.doc}


@dataclass(frozen=True)
class Either:
    """One of two shapes, chosen by the kind of value: a mapping goes to `table`, all else to `other`."""

    table: Shape
    other: Shape

    def read(self, node: Node, path: str, mistakes: Mistakes) -> Any:
        return (self.table if isinstance(node, Table) else self.other).read(node, path, mistakes)

    def schema(self) -> Schema:
        return {"anyOf": [self.table.schema(), self.other.schema()]}

"""YAML text to a tree that remembers where everything stood.

Scalars follow YAML 1.2, not 1.1: `on`, `yes`, `012` and `1:30` are the texts that people see, not a boolean, an octal
and a count of seconds. Built from parser events, so that anchors are never expanded: a repeated value is one shared
node, and what it would weigh written out is counted as the tree grows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from paddock.model.errors import Refused

TEXT_BYTES_MAX = 1_000_000
NODES_MAX = 100_000
"""Values of one manifest, aliases written out."""
CHARS_MAX = 2_000_000
"""Characters of one manifest's values, aliases written out."""
DEPTH_MAX = 30
MISTAKES_MAX = 10
"""One error tells this many mistakes at the most; reading stops at the last."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WORDS_NULL = ("", "~", "null", "Null", "NULL")
_DIGITS_MAX = 400
_TAGS = ("!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")))


class ManifestSource(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest as it came: `name` for messages (a file name), `folder` against which its paths are relative."""

    name: str
    text: str
    folder: str = ""
    what: str = "manifest"
    """What it is called in messages, when it is something else that is written like one."""
    begins: str = "'paddock: 1' and 'fleets:'"
    """With what one begins; said of an empty one."""


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a source; both numbers count from 1."""

    source: ManifestSource
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.source.name}, line {self.line}, column {self.column}"


class Wrong(Exception):
    """One mistake at one place; on its way to the nearest list of mistakes."""

    def __init__(self, where: Where, text: str) -> None:
        super().__init__(text)
        self.where, self.text = where, text


class Mistakes:
    """Collects mistakes, so that one error tells of up to `MISTAKES_MAX`."""

    def __init__(self) -> None:
        self._found: dict[tuple[Where, str], None] = {}

    def add(self, where: Where, text: str) -> None:
        """Note one mistake (a second time at the same place says nothing new); raises Refused at the last."""
        self._found[where, text] = None
        if len(self._found) >= MISTAKES_MAX:
            self.refuse(f"\n(reading stopped after {MISTAKES_MAX} mistakes)")

    def refuse(self, more: str = "") -> None:
        """Raise Refused when there is any mistake."""
        if self._found:
            ordered = sorted(self._found, key=lambda item: (item[0].source.name, item[0].line, item[0].column))
            head = f"{len(ordered)} mistakes in the {ordered[0][0].source.what}:\n" if len(ordered) > 1 else ""
            raise Refused(head + "\n".join(f"{where}: {text}" for where, text in ordered) + more)

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True, slots=True)
class Node:
    """A value. `nodes`, `chars` and `height` are what it weighs with all aliases written out."""

    where: Where
    nodes: int = 1
    chars: int = 0
    height: int = 1


@dataclass(frozen=True, slots=True)
class Leaf(Node):
    """A scalar: `text` as written, and the value that YAML 1.2 gives it."""

    text: str = ""
    value: str | int | float | bool | None = None


@dataclass(frozen=True, slots=True)
class Listing(Node):
    items: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Table(Node):
    """A mapping; `keys` says where each key stood."""

    entries: Mapping[str, Node] = field(default_factory=dict)
    keys: Mapping[str, Where] = field(default_factory=dict)


def listing(where: Where, items: list[Node]) -> Listing:
    nodes, chars, height = _weigh(items)
    return Listing(where, nodes, chars, height, tuple(items))


def table(where: Where, entries: Mapping[str, Node], keys: Mapping[str, Where]) -> Table:
    nodes, chars, height = _weigh(entries.values())
    return Table(where, nodes, chars + sum(map(len, entries)), height, entries, keys)


def merged(under: Table, over: Table) -> Table:
    """`over` on top of `under`; mappings in both merge, all else is replaced."""
    entries, keys = dict(under.entries), {**under.keys, **over.keys}
    for key, value in over.entries.items():
        below = entries.get(key)
        both = isinstance(below, Table) and isinstance(value, Table)
        entries[key] = merged(below, value) if isinstance(below, Table) and isinstance(value, Table) and both else value
    return table(over.where, entries, keys)


def plain(node: Node) -> Any:
    """The tree as plain data: what a reader of YAML 1.2 would give."""
    if isinstance(node, Table):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, Listing):
        return [plain(item) for item in node.items]
    return node.value if isinstance(node, Leaf) else None


def without_end(node: Node) -> Iterator[Where]:
    """Where the tree holds `.inf` or `.nan`, which JSON cannot say."""
    if isinstance(node, Table | Listing):
        for item in node.entries.values() if isinstance(node, Table) else node.items:
            yield from without_end(item)
    elif isinstance(node, Leaf) and isinstance(node.value, float) and not math.isfinite(node.value):
        yield node.where


def short(text: str, limit: int = 60) -> str:
    """Quoted for a message, cut when long."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def parse(source: ManifestSource, mistakes: Mistakes) -> Node | None:
    """The tree of one source; None when it is not YAML at all (told to `mistakes`)."""
    try:
        _check_text(source)
        return _Builder(source, mistakes).build()
    except Wrong as wrong:
        mistakes.add(wrong.where, wrong.text)
    except yaml.MarkedYAMLError as error:
        mistakes.add(*_syntax(source, error))
    except yaml.YAMLError as error:
        # Characters outside YAML are refused before; what remains has no place of its own.
        mistakes.add(Where(source), f"not YAML: {str(error).splitlines()[0]}")
    return None


def _weigh(children: Any) -> tuple[int, int, int]:
    nodes, chars, height = 1, 0, 0
    for child in children:
        nodes, chars, height = nodes + child.nodes, chars + child.chars, max(height, child.height)
    return nodes, chars, height + 1


def _check_text(source: ManifestSource) -> None:
    text = source.text
    start = Where(source)
    # Characters first: counting the bytes of a text of gigabytes would copy it.
    size = len(text)
    if size <= TEXT_BYTES_MAX:
        size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        raise Wrong(
            start, f"the {source.what} has {size:,} bytes, over the limit of {TEXT_BYTES_MAX:,}; split it into several"
        )
    if bad := _UNPRINTABLE.search(text.removeprefix("\ufeff")):
        before = text.removeprefix("\ufeff")[: bad.start()]
        where = Where(source, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        raise Wrong(where, f"the character U+{ord(bad[0]):04X} may not stand in YAML; is this a text file in UTF-8?")


def _syntax(source: ManifestSource, error: yaml.MarkedYAMLError) -> tuple[Where, str]:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = source.text.splitlines()
    said = ", ".join(part for part in (error.context, error.problem) if part)
    hint = ""
    if line < len(lines) and "\t" in lines[line][: column + 1]:
        hint = "; indent with spaces, not tabs"
    elif error.problem and "mapping values are not allowed" in error.problem:
        hint = "; put a text that holds ': ' in quotes"
    return Where(source, line + 1, column + 1), f"not YAML: {said}{hint}"


class _Frame:
    """A list or mapping that is still open."""

    __slots__ = ("anchor", "entries", "items", "key", "keys", "mapping", "merges", "where")

    def __init__(self, where: Where, anchor: str | None, *, mapping: bool) -> None:
        self.where, self.anchor, self.mapping = where, anchor, mapping
        self.items: list[Node] = []
        self.entries: dict[str, Node] = {}
        self.keys: dict[str, Where] = {}
        self.merges: list[Table] = []
        self.key: Leaf | None = None


class _Builder:
    def __init__(self, source: ManifestSource, mistakes: Mistakes) -> None:
        self._source, self._mistakes = source, mistakes
        self._anchors: dict[str, Node] = {}
        self._stack: list[_Frame] = []
        self._root: Node | None = None
        self._nodes = self._chars = self._documents = 0

    def build(self) -> Node:
        for event in self._events():
            where = Where(self._source, event.start_mark.line + 1, event.start_mark.column + 1)
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise Wrong(
                        where,
                        f"a second document starts here; a file holds one {self._source.what}, so remove the '---'",
                    )
            elif isinstance(event, yaml.AliasEvent):
                self._put(self._alias(where, str(event.anchor)), where)
            elif isinstance(event, yaml.ScalarEvent):
                self._tag(where, event.tag)
                self._close(self._leaf(where, event), event.anchor)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._tag(where, event.tag)
                if len(self._stack) >= DEPTH_MAX:
                    raise Wrong(where, f"nested deeper than {DEPTH_MAX} levels; a {self._source.what} needs far fewer")
                self._stack.append(_Frame(where, event.anchor, mapping=isinstance(event, yaml.MappingStartEvent)))
            elif isinstance(event, yaml.CollectionEndEvent):
                frame = self._stack.pop()
                self._close(self._collection(frame), frame.anchor)
        if self._root is None or (isinstance(self._root, Leaf) and self._root.value is None):
            raise Wrong(Where(self._source), f"the {self._source.what} is empty; begin with {self._source.begins}")
        return self._root

    def _events(self) -> Iterator[Any]:
        yield from yaml.parse(self._source.text.removeprefix("\ufeff"), Loader=_LOADER)

    def _tag(self, where: Where, tag: str | None) -> None:
        if tag is not None and tag not in _TAGS:
            raise Wrong(where, f"the tag {short(tag)} is not used in a {self._source.what}; remove it")

    def _leaf(self, where: Where, event: Any) -> Leaf:
        text: str = event.value
        as_text = bool(event.style) or event.tag in ("!", "tag:yaml.org,2002:str")
        return Leaf(where, 1, len(text), 1, text, text if as_text else scalar(text))

    def _alias(self, where: Where, anchor: str) -> Node:
        if any(frame.anchor == anchor for frame in self._stack):
            raise Wrong(where, f"'*{anchor}' stands inside what it repeats, so it would never end; remove it")
        if anchor not in self._anchors:
            raise Wrong(where, f"'*{anchor}' repeats '&{anchor}', which does not stand before it")
        return self._anchors[anchor]

    def _collection(self, frame: _Frame) -> Node:
        if not frame.mapping:
            return listing(frame.where, frame.items)
        entries, keys = frame.entries, frame.keys
        for below in frame.merges:
            entries = {**below.entries, **entries}
            keys = {**below.keys, **keys}
        return table(frame.where, entries, keys)

    def _close(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        self._put(node, node.where)

    def _put(self, node: Node, where: Where) -> None:
        """Hang a finished node (or an alias of one, at `where`) into what is open."""
        if node.height + len(self._stack) > DEPTH_MAX:
            raise Wrong(where, f"nested deeper than {DEPTH_MAX} levels; a {self._source.what} needs far fewer")
        # Own nodes were counted as their children closed, so a collection adds only itself; an alias adds all.
        whole = where is not node.where or isinstance(node, Leaf)
        self._nodes += node.nodes if whole else 1
        self._chars += node.chars if whole else 0
        if self._nodes > NODES_MAX or self._chars > CHARS_MAX:
            raise Wrong(
                where,
                f"this {self._source.what} has more than {NODES_MAX:,} values or {CHARS_MAX:,} characters, with all "
                "aliases written out; repeat less, or split it",
            )
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        if not frame.mapping:
            frame.items.append(node)
        elif frame.key is None:
            if not isinstance(node, Leaf):
                raise Wrong(where, "a key must be a plain name, not a list or a mapping")
            frame.key = Leaf(where, 1, len(node.text), 1, node.text, node.value)
        else:
            key, frame.key = frame.key, None
            self._entry(frame, key, node)

    def _entry(self, frame: _Frame, key: Leaf, value: Node) -> None:
        if key.text == "<<":
            tables = value.items if isinstance(value, Listing) else (value,)
            for below in tables:
                if not isinstance(below, Table):
                    raise Wrong(value.where, "'<<' merges a mapping or a list of mappings, nothing else")
                frame.merges.append(below)
        elif key.text in frame.keys:
            first = frame.keys[key.text]
            self._mistakes.add(
                key.where, f"the key {short(key.text)} stands here again, first in line {first.line}; remove one"
            )
        else:
            frame.keys[key.text] = key.where
            frame.entries[key.text] = value


def scalar(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar by the core schema of YAML 1.2; numbers with a leading zero stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if text in _WORDS_NULL:
        return None
    if len(text) > _DIGITS_MAX or _LEADING_ZERO.fullmatch(text):
        return text
    if _INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text

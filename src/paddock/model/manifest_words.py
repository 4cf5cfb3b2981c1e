"""Shapes of single values that manifests are made of: names, commands, signals, ports, cron, timezones, patterns."""

from __future__ import annotations

import posixpath
import shlex
import signal
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime

import cronsim

from paddock.model.errors import Refused
from paddock.model.names import METHOD, NAME
from paddock.model.pattern import check_pattern
from paddock.model.shapes import (
    Field,
    ListOf,
    MapOf,
    Schema,
    Shape,
    Text,
    Whole,
    nearest,
    wrong_type,
)
from paddock.model.yaml_source import Leaf, Listing, Mistakes, Node, Wrong, short

CRON_CHARS_MAX = 200

NAME_TEXT = Text(
    pattern=NAME.pattern, what="a name: use 1 to 63 of a-z, 0-9, '-' and '_', first and last a letter or digit"
)
METHOD_TEXT = Text(pattern=METHOD.pattern, what="a method: use up to 64 letters, digits and '_', first no digit")
_PORT_TEXT = Text(pattern=r"[a-z][a-z0-9_]{0,30}", what="a port name: use up to 31 of a-z, 0-9 and '_', first a letter")
_PORT_NAMES = ListOf(_PORT_TEXT, length_max=20)
_PORT_NUMBERS = MapOf(_PORT_TEXT, Whole(1, 65_535), length_max=20)
ENV_TEXT = Text(pattern=r"[A-Za-z_][A-Za-z0-9_]{0,254}", what="a variable's name: use letters, digits and '_'")
_WORD = r"[^\W\d]\w*"
_CLASS_TEXT = Text(pattern=rf"{_WORD}(?:\.{_WORD})*:{_WORD}(?:\.{_WORD})*", what="of the form module:Class")
PATH_TEXT = Text(what="a folder")
_WORD_TEXT = Text(what="a word of the command", shown=False, may_be_empty=True)
PLAIN = Text(what="a text", shown=False, may_be_empty=True)


@dataclass(frozen=True)
class Command:
    """A list of words, or one text that is split as a shell would."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> list[str]:
        if isinstance(node, Leaf) and isinstance(node.value, str):
            try:
                words = shlex.split(_WORD_TEXT.read(node, path, mistakes))
            except ValueError as error:
                raise Wrong(node.where, f"{path} cannot be split into words: {str(error).lower()}") from error
        elif isinstance(node, Listing):
            words = ListOf(_WORD_TEXT, unique=False).read(node, path, mistakes)
            if len(words) < len(node.items):
                return words
        else:
            raise wrong_type(node, path, "a list of words, or one text")
        if not words or not words[0].strip():
            raise Wrong(node.where, f"{path} is empty; its first word must be the program to start")
        return words

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string", "minLength": 1}, ListOf(_WORD_TEXT, length_min=1, unique=False).schema()]}


@dataclass(frozen=True)
class AgentClass:
    """`module:Class`, with a hint for the usual slips."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> str:
        try:
            return _CLASS_TEXT.read(node, path, mistakes)
        except Wrong as wrong:
            text = node.text if isinstance(node, Leaf) else ""
            module, _, name = text.partition(":")
            guess = module.removesuffix(".py").strip("./").replace("/", ".")
            if not name and "." in guess and not text.endswith(".py"):
                guess, _, name = guess.rpartition(".")
            hint = f"{guess}:{name or 'Class'}"
            if text and hint != text and _is_class(hint):
                raise Wrong(wrong.where, f"{wrong.text}; did you mean {hint!r}?") from wrong
            raise Wrong(wrong.where, f"{wrong.text}, such as 'paddock.foundry:Executor'") from wrong

    def schema(self) -> Schema:
        return _CLASS_TEXT.schema()


def _is_class(text: str) -> bool:
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


@dataclass(frozen=True)
class Signal:
    """A signal by name (`SIGTERM`, `TERM`) or number; its full name."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> str:
        text = Text(what="a signal such as SIGTERM").read(node, path, mistakes)
        if text.isdecimal() and int(text[:9]) in set(signal.Signals):
            return signal.Signals(int(text[:9])).name
        name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
        if name not in signal.Signals.__members__:
            hint = nearest(name, signal.Signals.__members__)
            raise Wrong(node.where, f"{path} {short(text)} is not a signal of this system{hint}")
        return name

    def schema(self) -> Schema:
        return {"type": ["string", "integer"]}


@dataclass(frozen=True)
class Ports:
    """A list of names, or true (or 1) for the usual one."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> list[str]:
        if isinstance(node, Leaf) and isinstance(node.value, bool | int):
            if node.value in (0, 1):
                return ["port"] if node.value else []
            raise Wrong(
                node.where,
                f"{path} is a list of names; for one port write true, for a fixed one write {{port: {node.text[:20]}}}",
            )
        return _PORT_NAMES.read(node, path, mistakes)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": [True, False, 1, 0]}, _PORT_NAMES.schema()]}


@dataclass(frozen=True)
class FixedPorts:
    """Names with port numbers: entries such as `http=8080`."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> list[str]:
        return [f"{name}={number}" for name, number in _PORT_NUMBERS.read(node, path, mistakes).items()]

    def schema(self) -> Schema:
        return _PORT_NUMBERS.schema()


@dataclass(frozen=True)
class Cron:
    """Five fields of cron that come true some day."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> str:
        text = Text(what="five fields such as '*/5 * * * *'").read(node, path, mistakes)
        if len(text) > CRON_CHARS_MAX or len(text.split()) != 5:
            raise Wrong(
                node.where,
                f"{path} {short(text)} must have five fields (minute hour day month weekday), such as '*/5 * * * *'",
            )
        try:
            next(cronsim.CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
        except StopIteration as error:
            raise Wrong(node.where, f"{path} {short(text)} names a day that never comes") from error
        # ValueError and AssertionError: what the library lets slip for odd terms.
        except (cronsim.CronSimError, ValueError, AssertionError) as error:
            raise Wrong(node.where, f"{path} {short(text)} is not cron: {str(error).lower() or 'odd term'}") from error
        return " ".join(text.split())

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^\s*\S+(?:\s+\S+){4}\s*$", "maxLength": CRON_CHARS_MAX}


@dataclass(frozen=True)
class Timezone:
    """A name of the tz database."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> str:
        text = Text(what="a timezone such as Europe/Berlin").read(node, path, mistakes)
        if text == "UTC":
            return text
        try:
            zoneinfo.ZoneInfo(text)
        # OSError: a folder such as 'America'; ValueError: '../x'; KeyError: not found.
        except (KeyError, ValueError, OSError) as error:
            hint = nearest(text, zoneinfo.available_timezones())
            raise Wrong(node.where, f"{path} {short(text)} is not a timezone known here{hint}") from error
        return text

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Regex:
    """A regular expression of RE2, which needs time in proportion to the text whatever it is asked."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> str:
        text = Text(what="a regular expression", shown=False).read(node, path, mistakes)
        try:
            check_pattern(text)
        except Refused as error:
            raise Wrong(node.where, f"{path} is no regular expression: {error.message}") from error
        return text

    def schema(self) -> Schema:
        return Text(what="a regular expression").schema()


def field(shape: Shape, doc: str, *, required: bool = False) -> Field:
    return Field(shape, doc, required)


def absolute(text: str, node: Node, path: str) -> str:
    """A path, made absolute against the folder of the manifest that names it."""
    if text == "~" or text.startswith("~/"):
        raise Wrong(node.where, f"{path} {short(text)}: '~' is not replaced here; write the whole path")
    folder = node.where.source.folder
    if not posixpath.isabs(text) and not posixpath.isabs(folder):
        raise Wrong(
            node.where,
            f"{path} {short(text)} is relative, and this manifest came without a folder; write the whole path",
        )
    return posixpath.normpath(posixpath.join(folder, text))

"""What a manifest may hold: every key with its shape and its meaning. The reader and the schema both go by this."""

from __future__ import annotations

import shlex
import signal
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cronsim

from paddock.model.names import METHOD, NAME
from paddock.model.shapes import (
    Amount,
    Anything,
    Duration,
    Either,
    Field,
    ListOf,
    MapOf,
    Record,
    Schema,
    Shape,
    Size,
    Text,
    Whole,
    YesNo,
    nearest,
    wrong_type,
)
from paddock.model.yaml_source import Leaf, Listing, Mistakes, Node, Wrong, short

REPLICAS_MAX = 10_000
CRON_CHARS_MAX = 200

NAME_TEXT = Text(
    pattern=NAME.pattern, what="a name: use 1 to 63 of a-z, 0-9, '-' and '_', first and last a letter or digit"
)
_METHOD_TEXT = Text(pattern=METHOD.pattern, what="a method: use up to 64 letters, digits and '_', first no digit")
_PORT_TEXT = Text(pattern=r"[a-z][a-z0-9_]{0,30}", what="a port name: use up to 31 of a-z, 0-9 and '_', first a letter")
_PORT_NAMES = ListOf(_PORT_TEXT, length_max=20)
_PORT_NUMBERS = MapOf(_PORT_TEXT, Whole(1, 65_535), length_max=20)
_ENV_TEXT = Text(pattern=r"[A-Za-z_][A-Za-z0-9_]{0,254}", what="a variable's name: use letters, digits and '_'")
_WORD = r"[^\W\d]\w*"
_CLASS_TEXT = Text(pattern=rf"{_WORD}(?:\.{_WORD})*:{_WORD}(?:\.{_WORD})*", what="of the form module:Class")
_PATH_TEXT = Text(what="a folder")
_WORD_TEXT = Text(what="a word of the command", shown=False, may_be_empty=True)
_PLAIN = Text(what="a text", shown=False, may_be_empty=True)


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


def _field(shape: Shape, doc: str, *, required: bool = False) -> Field:
    return Field(shape, doc, required)


_RESTART = Record(
    {
        "mode": _field(Text(choices=("always", "on-failure", "never")), "After which ends it is started again."),
        "max": _field(Whole(0, 1_000_000), "More deaths than this in window_s are a crash loop: quarantine."),
        "window_s": _field(Duration(low=0.001), "The window in which deaths are counted."),
        "backoff_s_min": _field(Duration(), "Delay before the second restart in a row; doubles each time."),
        "backoff_s_max": _field(Duration(), "The longest delay before a restart."),
        "stable_s": _field(Duration(), "Alive this long after ready: the delays start anew."),
        "quarantine_s": _field(
            Duration(), "Rest of a crash-looping agent before one more try; 0: until healed by hand."
        ),
    }
)
_HEALTH = Record(
    {
        "start_s": _field(Duration(low=0.001), "Not ready this long after its start: stopped and replaced."),
        "hang_s": _field(Duration(low=0.001), "No beat this long: hung, stopped and replaced."),
        "beat": _field(YesNo(), "Whether it speaks to the node's socket; default true for agent, false for command."),
        "http": _field(
            Text(pattern=r"https?://\S+", what="a URL such as http://127.0.0.1:{port}/health", shown=False),
            "URL that must answer below 400; {port} and {port.name} are replaced.",
        ),
        "every_s": _field(Duration(low=0.001), "How often the URL is asked."),
        "fails": _field(Whole(1, 1000), "So many failures in a row: unhealthy."),
    }
)
_LIMITS = Record(
    {
        "memory_bytes": _field(Size(1_048_576, zero=True), "Memory of one agent; 0: no limit."),
        "cpus": _field(Amount(0, 1024), "Processors that one agent may use, such as 0.5; 0: no limit."),
        "open_files": _field(Whole(0, 1_048_576), "Open files of one agent; 0: no limit."),
    }
)
_LOGS = Record(
    {
        "max_bytes": _field(Size(1024), "Size at which an agent's log is rotated."),
        "keep": _field(Whole(0, 100), "How many rotated logs are kept."),
    }
)
_SCHEDULE = Record(
    {
        "name": _field(NAME_TEXT, "Name of the schedule, once in its fleet.", required=True),
        "cron": _field(Cron(), "Minute, hour, day, month, weekday.", required=True),
        "method": _field(_METHOD_TEXT, "The task's method.", required=True),
        "args": _field(Anything(), "The task's arguments."),
        "priority": _field(
            Text(choices=("CRITICAL", "HIGH", "MEDIUM", "LOW", "critical", "high", "medium", "low")),
            "The task's priority; default MEDIUM.",
        ),
        "timezone": _field(Timezone(), "In which the cron fields are meant; default UTC."),
    }
)
_METHOD = Record(
    {
        "name": _field(_METHOD_TEXT, "Name of the method.", required=True),
        "doc": _field(Text(may_be_empty=True, shown=False), "What it does."),
        "args": _field(Anything(), "JSON Schema of the arguments object."),
        "timeout_s": _field(Duration(), "Time-out of one run; 0: none."),
        "retries": _field(Whole(0, 1000), "How often it is tried again after an error."),
    }
)

TEMPLATE = Record(
    {
        "agent": _field(AgentClass(), "module:Class of an agent written in Python."),
        "command": _field(Command(), "Any command; {port}, {port.name}, {agent}, {name} are replaced."),
        "runtime": _field(Text(choices=("python", "exec")), "Follows from agent or command; may be left out."),
        "replicas": _field(Whole(0, REPLICAS_MAX), "How many agents; default 1."),
        "owners": _field(
            ListOf(NAME_TEXT, REPLICAS_MAX, 1), "One agent for each, named after it; instead of replicas."
        ),
        "env": _field(MapOf(_ENV_TEXT, _PLAIN), "Environment variables; numbers and true/false as written."),
        "cwd": _field(_PATH_TEXT, "Working folder, relative to the manifest's."),
        "user": _field(Text(pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", what="a user's name"), "Run as this user."),
        "pythonpath": _field(ListOf(_PATH_TEXT, 100), "Folders put before sys.path; default: the manifest's own."),
        "stop_signal": _field(Signal(), "What asks the agent to end; default SIGTERM."),
        "stop_grace_s": _field(Duration(), "Time between the stop signal and SIGKILL."),
        "ports": _field(Either(FixedPorts(), Ports()), "Names of ports that each agent gets, or {name: number}."),
        "capabilities": _field(ListOf(NAME_TEXT, 100), "What tasks may be addressed to, besides the fleet's name."),
        "concurrency": _field(Whole(1, 10_000), "How many tasks one agent holds at a time."),
        "restart": _field(_RESTART, "When and how fast a dead agent comes back."),
        "health": _field(_HEALTH, "When an agent counts as ready, and when as hung."),
        "limits": _field(_LIMITS, "Limits of one agent."),
        "logs": _field(_LOGS, "How logs are kept."),
        "config": _field(Anything(), "Settings that the agent reads."),
        "depends_on": _field(ListOf(NAME_TEXT, 100), "Fleets that must be ready first."),
        "queue_limit": _field(Whole(1, 100_000_000), "Queued tasks at the most; more are refused."),
        "ack_wait_s": _field(Duration(low=1.0), "When a task is handed out again, should the node not return it."),
        "schedules": _field(ListOf(_SCHEDULE, 100), "Tasks that are submitted again and again."),
        "methods": _field(ListOf(Either(_METHOD, _METHOD_TEXT), 1000), "Task methods, where they cannot be found out."),
        "secret_env": _field(ListOf(_ENV_TEXT), "Names of env whose values are secrets."),
    }
)
FLEET = Record({"template": _field(NAME_TEXT, "A template whose fields are this fleet's defaults."), **TEMPLATE.fields})

NOT_USED: dict[str, str] = {
    "policies": "Recovery policies.",
    "flags": "Switches over several fleets.",
    "notifications": "Who is told of what.",
}
"""Top-level sections that are read but not used by this version."""

TOP_KEYS = ("paddock", "templates", "fleets", *NOT_USED)


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a manifest, as published by `paddock schema`."""
    fleet = FLEET.schema() | {
        "anyOf": [{"required": ["template"]}, {"required": ["agent"]}, {"required": ["command"]}],
        "allOf": [{"not": {"required": ["agent", "command"]}}, {"not": {"required": ["replicas", "owners"]}}],
    }
    named = {"type": "object", "propertyNames": {"pattern": f"^(?:{NAME.pattern})$"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Paddock manifest",
        "description": "What should run: fleets of agents, and the templates that they are made from.",
        "type": "object",
        "required": ["paddock"],
        "additionalProperties": False,
        "properties": {
            "paddock": {"type": "integer", "const": 1, "description": "Version of the manifest's form."},
            "templates": named
            | {
                "description": "How agents are made and kept alive.",
                "additionalProperties": {"$ref": "#/$defs/template"},
            },
            "fleets": named
            | {"description": "Agents of one template each.", "additionalProperties": {"$ref": "#/$defs/fleet"}},
            **{
                key: {"type": "object", "description": f"{doc} Read but not used by this version."}
                for key, doc in NOT_USED.items()
            },
        },
        "$defs": {"template": TEMPLATE.schema(), "fleet": fleet},
    }

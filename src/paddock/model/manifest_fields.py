"""What a manifest may hold: every key with its shape and its meaning. The reader and the schema both go by this."""

from __future__ import annotations

from typing import Any

from paddock.model.manifest_health import HEALTH
from paddock.model.manifest_notify import NOTIFICATIONS
from paddock.model.manifest_policy import POLICY
from paddock.model.manifest_words import (
    ENV_TEXT,
    METHOD_TEXT,
    NAME_TEXT,
    PATH_TEXT,
    PLAIN,
    AgentClass,
    Command,
    Cron,
    FixedPorts,
    Ports,
    Signal,
    Timezone,
    field,
)
from paddock.model.names import NAME
from paddock.model.shapes import Amount, Anything, Duration, Either, ListOf, MapOf, Record, Size, Text, Whole

REPLICAS_MAX = 10_000

_RESTART = Record(
    {
        "mode": field(Text(choices=("always", "on-failure", "never")), "After which ends it is started again."),
        "max": field(Whole(0, 1_000_000), "More deaths than this in window_s are a crash loop: quarantine."),
        "window_s": field(Duration(low=0.001), "The window in which deaths are counted."),
        "backoff_s_min": field(Duration(), "Delay before the second restart in a row; doubles each time."),
        "backoff_s_max": field(Duration(), "The longest delay before a restart."),
        "stable_s": field(Duration(), "Alive this long after ready: the delays start anew."),
        "quarantine_s": field(
            Duration(), "Rest of a crash-looping agent before one more try; 0: until healed by hand."
        ),
    }
)
_LIMITS = Record(
    {
        "memory_bytes": field(Size(1_048_576, zero=True), "Memory of one agent; 0: no limit."),
        "cpus": field(Amount(0, 1024), "Processors that one agent may use, such as 0.5; 0: no limit."),
        "open_files": field(Whole(0, 1_048_576), "Open files of one agent; 0: no limit."),
    }
)
_LOGS = Record(
    {
        "max_bytes": field(Size(1024), "Size at which an agent's log is rotated."),
        "keep": field(Whole(0, 100), "How many rotated logs are kept."),
    }
)
_SCHEDULE = Record(
    {
        "name": field(NAME_TEXT, "Name of the schedule, once in its fleet.", required=True),
        "cron": field(Cron(), "Minute, hour, day, month, weekday.", required=True),
        "method": field(METHOD_TEXT, "The task's method.", required=True),
        "args": field(Anything(), "The task's arguments."),
        "priority": field(
            Text(choices=("CRITICAL", "HIGH", "MEDIUM", "LOW", "critical", "high", "medium", "low")),
            "The task's priority; default MEDIUM.",
        ),
        "timezone": field(Timezone(), "In which the cron fields are meant; default UTC."),
    }
)
_METHOD = Record(
    {
        "name": field(METHOD_TEXT, "Name of the method.", required=True),
        "doc": field(Text(may_be_empty=True, shown=False), "What it does."),
        "args": field(Anything(), "JSON Schema of the arguments object."),
        "timeout_s": field(Duration(), "Time-out of one run; 0: none."),
        "retries": field(Whole(0, 1000), "How often it is tried again after an error."),
    }
)

TEMPLATE = Record(
    {
        "agent": field(AgentClass(), "module:Class of an agent written in Python."),
        "command": field(Command(), "Any command; {port}, {port.name}, {agent}, {name} are replaced."),
        "runtime": field(Text(choices=("python", "exec")), "Follows from agent or command; may be left out."),
        "replicas": field(Whole(0, REPLICAS_MAX), "How many agents; default 1."),
        "owners": field(ListOf(NAME_TEXT, REPLICAS_MAX, 1), "One agent for each, named after it; instead of replicas."),
        "env": field(MapOf(ENV_TEXT, PLAIN), "Environment variables; numbers and true/false as written."),
        "cwd": field(PATH_TEXT, "Working folder, relative to the manifest's."),
        "user": field(Text(pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", what="a user's name"), "Run as this user."),
        "pythonpath": field(ListOf(PATH_TEXT, 100), "Folders put before sys.path; default: the manifest's own."),
        "stop_signal": field(Signal(), "What asks the agent to end; default SIGTERM."),
        "stop_grace_s": field(Duration(), "Time between the stop signal and SIGKILL."),
        "ports": field(Either(FixedPorts(), Ports()), "Names of ports that each agent gets, or {name: number}."),
        "capabilities": field(ListOf(NAME_TEXT, 100), "What tasks may be addressed to, besides the fleet's name."),
        "concurrency": field(Whole(1, 10_000), "How many tasks one agent holds at a time."),
        "restart": field(_RESTART, "When and how fast a dead agent comes back."),
        "health": field(HEALTH, "When an agent counts as ready, and when as hung."),
        "policy": field(NAME_TEXT, "A name in policies: how it is judged and healed; default: the built-in one."),
        "limits": field(_LIMITS, "Limits of one agent."),
        "logs": field(_LOGS, "How logs are kept."),
        "config": field(Anything(), "Settings that the agent reads."),
        "depends_on": field(ListOf(NAME_TEXT, 100), "Fleets that must be ready first."),
        "queue_limit": field(Whole(1, 100_000_000), "Queued tasks at the most; more are refused."),
        "ack_wait_s": field(Duration(low=1.0), "When a task is handed out again, should the node not return it."),
        "schedules": field(ListOf(_SCHEDULE, 100), "Tasks that are submitted again and again."),
        "methods": field(ListOf(Either(_METHOD, METHOD_TEXT), 1000), "Task methods, where they cannot be found out."),
        "secret_env": field(ListOf(ENV_TEXT), "Names of env whose values are secrets."),
    }
)
FLEET = Record({"template": field(NAME_TEXT, "A template whose fields are this fleet's defaults."), **TEMPLATE.fields})

NOT_USED: dict[str, str] = {
    "flags": "Switches over several fleets.",
}
"""Top-level sections that are read but not used by this version."""

TOP_KEYS = ("paddock", "templates", "fleets", "policies", "notifications", *NOT_USED)


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
            "policies": named
            | {
                "description": "How fleets are judged and healed, and what is promised.",
                "additionalProperties": {"$ref": "#/$defs/policy"},
            },
            "notifications": {"description": "Who is told of what.", "$ref": "#/$defs/notifications"},
            **{
                key: {"type": "object", "description": f"{doc} Read but not used by this version."}
                for key, doc in NOT_USED.items()
            },
        },
        "$defs": {
            "template": TEMPLATE.schema(),
            "fleet": fleet,
            "policy": POLICY.schema(),
            "notifications": NOTIFICATIONS.schema(),
        },
    }

"""The section `health` of a fleet: its keys, its probes, and what is judged of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock.model.health import Probe
from paddock.model.kinds import ByKind, Kind, leaf_text
from paddock.model.manifest_words import METHOD_TEXT, NAME_TEXT, Command, Regex, field
from paddock.model.shapes import (
    Amount,
    Anything,
    Duration,
    Field,
    ListOf,
    Record,
    Schema,
    Size,
    Text,
    Whole,
    YesNo,
    nearest,
    wrong_type,
)
from paddock.model.yaml_source import Leaf, Listing, Mistakes, Node, Table, Wrong, short

PROBES_MAX = 20
METRICS = ("memory_bytes", "cpus", "open_files", "threads")
_HTTP = re.compile(r"https?://[^\s/@]+(?:/\S*)?")
_TCP = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):(?:[0-9]{1,5}|\{port(?:\.[a-z][a-z0-9_]{0,30})?\})")
_EVERY_S = 30.0
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Threshold:
    """A number; of bytes also as a text such as `200MB`."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> float:
        if isinstance(node, Leaf) and isinstance(node.value, str):
            return float(Size(0).read(node, path, mistakes))
        return Amount(0, 2.0**50).read(node, path, mistakes)

    def schema(self) -> Schema:
        return {"anyOf": [Amount(0, 2.0**50).schema(), Size(0).schema()]}


@dataclass(frozen=True)
class Expectation:
    """One rule for the answer of a known-answer task."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> dict[str, Any]:
        if not isinstance(node, Table):
            raise wrong_type(node, path, "a rule such as {equals: 42}")
        if len(node.entries) != 1:
            raise Wrong(node.where, f"{path} has {len(node.entries)} rules, but must have one of {', '.join(_RULES)}")
        [(rule, value)] = node.entries.items()
        where = f"{path}.{rule}"
        if rule == "equals":
            return {rule: Anything(mapping=False).read(value, where, mistakes)}
        if rule == "contains":
            return {rule: Text(what="a text", shown=False).read(value, where, mistakes)}
        if rule == "matches":
            return {rule: Regex().read(value, where, mistakes)}
        if rule == "within":
            return {rule: _within(value, where, mistakes)}
        hint = nearest(rule, _RULES) or f"; known are {', '.join(_RULES)}"
        raise Wrong(node.keys[rule], f"unknown rule {short(rule)} in {path}{hint}")

    def schema(self) -> Schema:
        pair = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
        rules = {"equals": {}, "contains": Text().schema(), "matches": Regex().schema(), "within": pair}
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": rules,
            "minProperties": 1,
            "maxProperties": 1,
        }


_RULES = ("equals", "contains", "matches", "within")


def _within(node: Node, path: str, mistakes: Mistakes) -> list[float]:
    if not isinstance(node, Listing) or len(node.items) != 2:
        raise Wrong(node.where, f"{path} must be [number, tolerance], such as [3.14, 0.01]")
    number = Amount(-1e300, 1e300).read(node.items[0], f"{path}[0]", mistakes)
    return [number, Amount(0, 1e300).read(node.items[1], f"{path}[1]", mistakes)]


PROBE = ByKind(
    Record(
        {
            "name": field(NAME_TEXT, "Name of the probe, once in its fleet.", required=True),
            "kind": field(
                Text(choices=("http", "tcp", "exec", "log", "metric", "task")), "What is looked at.", required=True
            ),
            "phase": field(
                Text(choices=("startup", "liveness", "readiness")),
                "startup: not ready before it passes; liveness: ill when it fails; readiness: degraded when it fails.",
            ),
            "url": field(Text(what="an address", shown=False), "http: a URL; tcp: host:port; {port} is replaced."),
            "command": field(Command(), "exec: must end with 0."),
            "match": field(Regex(), "http: what its body must have; log: what must not appear."),
            "metric": field(Text(choices=METRICS), "metric: what is measured of the process."),
            "above": field(Threshold(), "metric: more than this is a failure."),
            "method": field(METHOD_TEXT, "task: the method that is called."),
            "args": field(Anything(), "task: its arguments."),
            "expect": field(Expectation(), "task: what must come back: equals, contains, matches or within."),
            "every_s": field(Duration(low=0.1, high=86_400), "How often it is asked; default 30s."),
            "timeout_s": field(Duration(low=0.01, high=3600), "How long it may take; default 5s, at most every_s."),
            "fails": field(Whole(1, 1000), "So many failures in a row: failed."),
        }
    ),
    kinds={
        "http": Kind(needs=("url",), may=("match",)),
        "tcp": Kind(needs=("url",)),
        "exec": Kind(needs=("command",)),
        "log": Kind(needs=("match",)),
        "metric": Kind(needs=("metric", "above")),
        "task": Kind(needs=("method", "expect"), may=("args",)),
    },
    hints={"interval": "write every_s", "timeout": "write timeout_s", "failures": "write fails", "port": "write url"},
)

HEALTH_FIELDS: Mapping[str, Field] = {
    "start_s": field(Duration(low=0.001), "Not ready this long after its start: stopped and replaced."),
    "hang_s": field(Duration(low=0.001), "No beat this long: hung, stopped and replaced."),
    "beat": field(YesNo(), "Whether it speaks to the node's socket; default true for agent, false for command."),
    "http": field(
        Text(pattern=r"https?://\S+", what="a URL such as http://127.0.0.1:{port}/health", shown=False),
        "URL that must answer below 400; {port} and {port.name} are replaced.",
    ),
    "every_s": field(Duration(low=0.001), "How often the URL is asked."),
    "fails": field(Whole(1, 1000), "So many failures in a row: unhealthy."),
    "probes": field(ListOf(PROBE, PROBES_MAX), "Further checks: http, tcp, exec, log, metric, task."),
}
HEALTH = Record(HEALTH_FIELDS)


def probes_of(values: Mapping[str, Any]) -> list[Probe]:
    """The probes of a fleet's checked values."""
    return [
        Probe(**{**entry, "timeout_s": entry.get("timeout_s", min(_TIMEOUT_S, entry.get("every_s", _EVERY_S)))})
        for entry in values.get("health", {}).get("probes", [])
    ]


def check_probes(tree: Table, values: Mapping[str, Any], mistakes: Mistakes) -> None:
    """Tell what the fields of each probe do not mean together."""
    health = tree.entries.get("health")
    nodes = health.entries.get("probes") if isinstance(health, Table) else None
    entries = values.get("health", {}).get("probes", [])
    for entry, node in zip(entries, nodes.items if isinstance(nodes, Listing) else (), strict=False):
        if isinstance(node, Table):
            for key, text in _wrong(entry, node, values):
                where = node.entries[key].where if key in node.entries else node.where
                mistakes.add(where, f"probe {entry['name']!r}: {text}")


def _wrong(entry: Mapping[str, Any], node: Table, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong with it)"""
    told: list[tuple[str, str]] = []
    kind, url = entry["kind"], leaf_text(node.entries["url"]) if "url" in node.entries else ""
    if kind == "http" and not _HTTP.fullmatch(url):
        told.append(("url", "url must be one such as http://127.0.0.1:{port}/health, without a user or password"))
    if kind == "tcp" and not _TCP.fullmatch(url):
        told.append(("url", "url must be host:port, such as 127.0.0.1:{port}"))
    every_s = entry.get("every_s", _EVERY_S)
    if entry.get("timeout_s", 0.0) > every_s:
        told.append(("timeout_s", f"timeout_s ({entry['timeout_s']:g}) is over every_s ({every_s:g})"))
    if kind == "task":
        told += _wrong_task(entry, values)
    elif entry.get("metric") in ("open_files", "threads"):
        above = node.entries["above"]
        if isinstance(above, Leaf) and isinstance(above.value, str):
            told.append(("above", f"above counts {entry['metric']}; write a number"))
    return told


def _wrong_task(entry: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    if entry.get("phase") == "startup":
        told.append(("phase", "a task is only given to an agent that is ready, so its phase cannot be startup"))
    if values.get("user"):
        told.append(("kind", "a fleet with a user of its own takes no tasks"))
    methods = values.get("methods")
    if methods is not None:
        known = [method["name"] if isinstance(method, dict) else method for method in methods]
        if entry["method"] not in known:
            told.append(("method", f"{entry['method']!r} is not among the methods{nearest(entry['method'], known)}"))
    return told

"""One fleet's checked fields to its spec: what the fields mean together, what is derived, and its version."""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Any, Literal

import msgspec

from paddock.model.fleet import FleetSpec, Health, Limits, Logs, Method, Restart, Schedule
from paddock.model.manifest_health import check_probes, probes_of
from paddock.model.manifest_words import absolute
from paddock.model.policy import Policy
from paddock.model.shapes import nearest
from paddock.model.yaml_source import Leaf, Listing, Mistakes, Table, Where, Wrong

SPEC_BYTES_MAX = 400_000
"""Limit of one encoded spec: with its names it must fit into one message of the fabric (1 MiB)."""

MADE_OF = (
    "runtime",
    "agent",
    "command",
    "env",
    "cwd",
    "user",
    "pythonpath",
    "ports",
    "concurrency",
    "limits",
    "config",
)
"""The fields that decide how an agent is made; when one of them changes, running agents are replaced."""

_PORT = re.compile(r"\{port(?:\.([a-z][a-z0-9_]{0,30}))?\}")
_RESERVED_ENV = frozenset(
    f"PADDOCK_{name}" for name in ("AGENT", "EPOCH", "NATS_URL", "CREDS", "SOCKET", "SOCKET_TOKEN")
)
_SHELL_WORDS = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1"})
_SECRET_ROUNDS = 10_000


def build(
    name: str, tree: Table, values: dict[str, Any], policy: Policy, mistakes: Mistakes, warnings: list[str]
) -> FleetSpec | None:
    """The spec of one fleet from its read `values`; `tree` says where they stand. Mistakes are told and give None."""
    before = len(mistakes)
    _check_rivals(tree, values, mistakes)
    _check_names(tree, values, mistakes)
    _check_numbers(tree, values, mistakes)
    check_probes(tree, values, mistakes)
    if len(mistakes) > before:
        return None
    runtime: Literal["python", "exec"] = "exec" if "command" in values else "python"
    fields = {key: value for key, value in values.items() if key not in ("template", "runtime")}
    fields["restart"] = Restart(**values.get("restart", {}))
    fields["health"] = Health(**{"beat": runtime == "python", **values.get("health", {}), "probes": probes_of(values)})
    fields["policy"] = policy
    fields["limits"] = Limits(**values.get("limits", {}))
    fields["logs"] = Logs(**values.get("logs", {}))
    fields["ports"] = _ports(runtime, values)
    fields["schedules"] = [
        Schedule(**{**entry, "priority": entry.get("priority", "MEDIUM").upper()})
        for entry in values.get("schedules", [])
    ]
    if "methods" in values:
        fields["methods"] = [
            Method(**entry) if isinstance(entry, dict) else Method(name=entry) for entry in values["methods"]
        ]
    try:
        fields |= _paths(runtime, tree, values)
    except Wrong as wrong:
        mistakes.add(wrong.where, wrong.text)
        return None
    spec = FleetSpec(name=name, runtime=runtime, template=values.get("template", name), **fields)
    size = len(msgspec.json.encode(spec))
    if size > SPEC_BYTES_MAX:
        mistakes.add(
            tree.where,
            f"fleets.{name} has {size:,} bytes, over the limit of {SPEC_BYTES_MAX:,}; keep large data in files",
        )
        return None
    _warn(name, tree, values, runtime, warnings)
    return msgspec.structs.replace(spec, version=version(spec))


def version(spec: FleetSpec) -> str:
    """Short hash over what decides how an agent is made (`MADE_OF`); it changes when agents must be replaced."""
    made = {key: getattr(spec, key) for key in MADE_OF}
    secret = {key: spec.env[key] for key in spec.secret_env if key in spec.env}
    made["env"] = {key: value for key, value in spec.env.items() if key not in secret}
    digest = hashlib.sha256(msgspec.json.encode(made, order="deterministic"))
    if secret:
        # The version is shown to everybody, so a short secret must not be quick to guess from it.
        text = msgspec.json.encode(secret, order="deterministic")
        digest.update(hashlib.pbkdf2_hmac("sha256", text, spec.name.encode(), _SECRET_ROUNDS))
    return digest.hexdigest()[:12]


def where_of(tree: Table, *path: str) -> Where:
    """Where the key at `path` stands; the nearest that exists."""
    found, node = tree.where, tree
    for key in path:
        if key not in node.keys:
            break
        found, below = node.keys[key], node.entries[key]
        if not isinstance(below, Table):
            break
        node = below
    return found


def _check_rivals(tree: Table, values: dict[str, Any], mistakes: Mistakes) -> None:
    if "agent" in values and "command" in values:
        other = tree.keys["agent"]
        mistakes.add(
            tree.keys["command"],
            f"a fleet has either agent or command, and agent is given in line {other.line}; remove one",
        )
    elif "agent" not in values and "command" not in values:
        mistakes.add(
            tree.where, "a fleet needs an agent (such as 'paddock.foundry:Critic') or a command, or a template with one"
        )
    elif "runtime" in values and values["runtime"] != ("exec" if "command" in values else "python"):
        needs = "agent" if values["runtime"] == "python" else "command"
        mistakes.add(
            tree.keys["runtime"], f"runtime {values['runtime']} goes with {needs}; remove it, it follows from the rest"
        )
    if "owners" in values and "replicas" in values:
        mistakes.add(
            tree.keys["replicas"],
            "replicas and owners cannot stand together: owners say how many there are; remove one",
        )


def _check_names(tree: Table, values: dict[str, Any], mistakes: Mistakes) -> None:
    env = values.get("env", {})
    for key in _RESERVED_ENV & env.keys():
        mistakes.add(where_of(tree, "env", key), f"env.{key} is set by Paddock itself; remove it")
    for key in values.get("secret_env", []):
        if key not in env:
            mistakes.add(
                where_of(tree, "secret_env"), f"secret_env names {key!r}, which env does not set{nearest(key, env)}"
            )
    fixed = [entry.partition("=")[2] for entry in values.get("ports", []) if "=" in entry]
    agents = len(values["owners"]) if "owners" in values else values.get("replicas", 1)
    if fixed and agents > 1:
        mistakes.add(
            where_of(tree, "ports"),
            f"port clash: {agents:,} agents cannot share the fixed port {fixed[0]}; list the names of ports instead, "
            "such as [http], and each agent gets its own",
        )
    methods = values.get("methods")
    if methods is None:
        return
    known = [entry["name"] if isinstance(entry, dict) else entry for entry in methods]
    nodes = tree.entries.get("schedules")
    for schedule, node in zip(
        values.get("schedules", []), nodes.items if isinstance(nodes, Listing) else (), strict=True
    ):
        if schedule["method"] not in known and isinstance(node, Table):
            hint = nearest(schedule["method"], known)
            mistakes.add(
                node.entries["method"].where,
                f"schedule {schedule['name']!r} calls {schedule['method']!r}, which is not among the methods{hint}",
            )


def _check_numbers(tree: Table, values: dict[str, Any], mistakes: Mistakes) -> None:
    restart = Restart(**values.get("restart", {}))
    if restart.backoff_s_min > restart.backoff_s_max:
        mistakes.add(
            where_of(tree, "restart", "backoff_s_min" if "backoff_s_min" in values["restart"] else "backoff_s_max"),
            f"restart.backoff_s_min ({restart.backoff_s_min:g}) is over backoff_s_max ({restart.backoff_s_max:g})",
        )
    open_files = values.get("limits", {}).get("open_files", 0)
    if 0 < open_files < 16:
        mistakes.add(
            where_of(tree, "limits", "open_files"),
            f"limits.open_files is {open_files}, with which no program starts; write at least 16, or 0 for no limit",
        )


def _ports(runtime: str, values: dict[str, Any]) -> list[str]:
    """The ports as listed, and those that `{port}` or `{port.name}` asks for."""
    ports = list(values.get("ports", []))
    health = values.get("health", {})
    texts = [health.get("http", "")]
    texts += [text for probe in health.get("probes", []) for text in (probe.get("url", ""), *probe.get("command", []))]
    if runtime == "exec":
        texts += [*values["command"], *values.get("env", {}).values()]
    have = {entry.partition("=")[0] for entry in ports}
    for text in texts:
        for name in _PORT.findall(text):
            if (name or "port") not in have:
                have.add(name or "port")
                ports.append(name or "port")
    return ports


def _paths(runtime: str, tree: Table, values: dict[str, Any]) -> dict[str, Any]:
    """`cwd` and `pythonpath`, absolute. Where neither is written, code is looked for beside the manifest that names
    it: a program is started there, a module is imported from there."""
    found: dict[str, Any] = {}
    code = tree.entries["command" if runtime == "exec" else "agent"]
    folder = _normal(code.where.source.folder)
    if "cwd" in values:
        found["cwd"] = absolute(values["cwd"], tree.entries["cwd"], "cwd")
    elif runtime == "exec" and folder:
        found["cwd"] = folder
    if "pythonpath" in values:
        node = tree.entries["pythonpath"]
        items = node.items if isinstance(node, Listing) else ()
        found["pythonpath"] = [
            absolute(text, item, "pythonpath") for text, item in zip(values["pythonpath"], items, strict=True)
        ]
    elif runtime == "python" and folder:
        found["pythonpath"] = [folder]
    return found


def _normal(folder: str) -> str:
    return posixpath.normpath(folder) if posixpath.isabs(folder) else ""


def _warn(name: str, tree: Table, values: dict[str, Any], runtime: str, warnings: list[str]) -> None:
    node = tree.entries.get("command")
    if isinstance(node, Leaf) and (found := _SHELL_WORDS.intersection(values["command"])):
        warnings.append(
            f"{node.where}: no shell runs this command, so {sorted(found)[0]!r} is passed on as a word; "
            "for a shell write [sh, -c, '…']"
        )
    if runtime == "exec" and "pythonpath" in values:
        warnings.append(
            f"{where_of(tree, 'pythonpath')}: fleets.{name}.pythonpath is only used with agent, not command"
        )

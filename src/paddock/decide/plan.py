"""What applying a manifest would change, told before it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from paddock.decide.redact import said
from paddock.model.fleet import FleetSpec
from paddock.model.notify import Notifications
from paddock.model.plan import FleetChange, Plan

SECRET = "(secret)"  # noqa: S105 - the text that stands where a secret would
SECRET_CHANGED = "(secret, changed)"  # noqa: S105 - the same
_NOT_WANTED_BY_HAND = frozenset({"name", "version"})
_SCALE = frozenset({"replicas", "owners"})
_SHOWN_CHARS_MAX = 40
_FIELDS_SHOWN_MAX = 6


def plan(
    wanted: Mapping[str, FleetSpec], current: Mapping[str, FleetSpec], *, prune: bool, running: Mapping[str, int]
) -> Plan:
    """The way from `current` to `wanted`: in the order of `wanted`, then what goes. Without `prune`, fleets that are
    not wanted stay and are not mentioned. `running` counts the live agents of each fleet."""
    changes = [
        _create(spec) if name not in current else _change(current[name], spec, running.get(name, 0))
        for name, spec in wanted.items()
    ]
    if prune:
        changes += [_delete(name, running.get(name, 0)) for name in sorted(current.keys() - wanted.keys())]
    return Plan(changes=changes)


def plan_notifications(wanted: Notifications | None, current: Notifications) -> str:
    """What changes for who is told of what; empty when nothing does, or the manifest says nothing of it."""
    if wanted is None or wanted == current:
        return ""
    old = {channel.name: channel for channel in current.channels}
    new = {channel.name: channel for channel in wanted.channels}
    parts = [f"add {name} ({new[name].kind})" for name in new if name not in old]
    parts += [f"change {name}" for name in new if name in old and new[name] != old[name]]
    parts += [f"remove {name}" for name in old if name not in new]
    if msgspec.structs.replace(wanted, channels=[]) != msgspec.structs.replace(current, channels=[]):
        parts.append("other routes or times")
    return f"notifications: {', '.join(parts) or 'other order of channels'}"


def _create(spec: FleetSpec) -> FleetChange:
    what = f"python {spec.agent}" if spec.runtime == "python" else f"exec {_shown(' '.join(spec.command))}"
    return FleetChange(kind="create", fleet=spec.name, text=f"create {spec.name}: {_agents(len(spec.names()))}, {what}")


def _delete(name: str, running: int) -> FleetChange:
    return FleetChange(kind="delete", fleet=name, text=f"delete {name}: stops {_agents(running)}")


def _change(old: FleetSpec, new: FleetSpec, running: int) -> FleetChange:
    fields = _differences(old, new)
    if not fields and old.version == new.version:
        return FleetChange(kind="none", fleet=new.name, text=f"{new.name}: no change")
    restarts = _restarts(old, new, running)
    if old.version == new.version and fields.keys() <= _SCALE:
        text = f"scale {new.name}: {_count_change(old, new)}"
        return FleetChange(kind="scale", fleet=new.name, text=text, fields=fields)
    named = list(dict.fromkeys(_told(path, values, old, new) for path, values in fields.items()))
    more = f" and {len(named) - _FIELDS_SHOWN_MAX} more" if len(named) > _FIELDS_SHOWN_MAX else ""
    what = ", ".join(named[:_FIELDS_SHOWN_MAX]) + more or "made anew"
    end = f"replaces {_agents(restarts)}" if restarts else "no restart"
    return FleetChange(
        kind="update", fleet=new.name, text=f"update {new.name}: {what}; {end}", fields=fields, restarts=restarts
    )


def _restarts(old: FleetSpec, new: FleetSpec, running: int) -> int:
    """Running agents that are made anew: all that stay, when the version changed. What scaling stops is not counted."""
    if old.version == new.version:
        return 0
    return min(running, len(set(old.names()).intersection(new.names())))


def _differences(old: FleetSpec, new: FleetSpec) -> dict[str, list[Any]]:
    """Field → [old, new], mappings by key: `env.PORT`, `restart.max`; values of secrets blanked."""
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    for side in (before, after):
        side.update(dict.fromkeys(_NOT_WANTED_BY_HAND))
    if new.methods is None and new.runtime != "exec":
        # Methods are found out when the template is checked; that nobody declared them is no difference. Of a command
        # nothing can be found out: there it means that any method is taken again.
        before["methods"] = None
    fields: dict[str, list[Any]] = {}
    _compare("", before, after, fields)
    secret = {f"env.{key}" for key in (*old.secret_env, *new.secret_env)}
    return {path: _blanked(values) if path in secret else values for path, values in fields.items()}


def _compare(path: str, old: dict[str, Any], new: dict[str, Any], fields: dict[str, list[Any]]) -> None:
    for key in {**old, **new}:
        one, two = old.get(key), new.get(key)
        below = f"{path}.{key}" if path else key
        if isinstance(one, dict) and isinstance(two, dict):
            _compare(below, one, two, fields)
        # True == 1 in Python, but not for who reads the settings.
        elif msgspec.json.encode(one) != msgspec.json.encode(two) or (key in old) != (key in new):
            fields[below] = [one, two]


def _blanked(values: list[Any]) -> list[Any]:
    old, new = values
    if old is not None and new is not None:
        return [SECRET, SECRET_CHANGED]
    return [None if value is None else SECRET for value in values]


def _told(path: str, values: list[Any], old: FleetSpec, new: FleetSpec) -> str:
    if path in _SCALE:
        return _count_change(old, new)
    one, two = values
    if all(value is None or isinstance(value, str | int | float) for value in values):
        return f"{path} {_word(one)} → {_word(two)}"
    return path


def _count_change(old: FleetSpec, new: FleetSpec) -> str:
    before, after = old.names(), new.names()
    if len(before) == len(after) and before != after:
        return f"{_agents(len(after))} with other names"
    return f"{len(before)} → {_agents(len(after))}"


def _word(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return str(value).lower() if isinstance(value, bool) else _shown(str(value))


def _shown(text: str) -> str:
    return said(text, limit=_SHOWN_CHARS_MAX)


def _agents(count: int) -> str:
    return f"{count:,} agent" if count == 1 else f"{count:,} agents"

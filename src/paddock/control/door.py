"""The door for tasks: a request is refused here, whole and with the reason, or becomes a Task. No I/O."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import msgspec
from jsonschema.exceptions import best_match

from paddock.control.mirror import Mirror, WantedFleet
from paddock.control.service import TaskRequest
from paddock.control.views import nearest
from paddock.model.errors import NotFound, Refused, TooLarge
from paddock.model.fleet import FleetSpec, Method
from paddock.model.names import METHOD, check_name, split_agent
from paddock.model.task import PAYLOAD_BYTES_MAX, Priority, Task

DAY_S = 86_400.0
KEPT_S_MAX = 30 * DAY_S
"""As long as the stream RESULTS keeps them."""
TIMEOUT_S_MAX = 7 * DAY_S
DELAY_S_MAX = 366 * DAY_S
ATTEMPTS_MAX = 100
KEY_CHARS_MAX = 200
DEPTH_MAX = 100
"""How deeply arguments may be nested."""
TEXT_CHARS_MAX = 300
"""How much of a schema's complaint is told."""

Choose = Callable[[str], str]
"""capability → name of the fleet to take; raises NotFound."""


class Door:
    def __init__(self, mirror: Mirror, choose: Choose) -> None:
        self._mirror = mirror
        self._choose = choose
        self._validators: dict[tuple[str, str], tuple[int, Any]] = {}
        """(fleet, method) → the sequence of the spec it was made from, and the validator."""

    def target(self, request: TaskRequest) -> tuple[WantedFleet, str]:
        """The fleet, and the agent's name or nothing."""
        given = [name for name in ("fleet", "agent", "capability") if getattr(request, name)]
        if len(given) != 1:
            found = "none" if not given else " and ".join(given)
            raise Refused(f"give exactly one of fleet, agent and capability; there is {found}")
        if request.capability:
            return self._mirror.fleet(self._choose(request.capability)), ""
        if request.fleet:
            return self._mirror.fleet(check_name("fleet", request.fleet)), ""
        fleet, name = split_agent(request.agent)
        wanted = self._mirror.fleet(fleet)
        if name not in wanted.names:
            raise NotFound(f"fleet {fleet!r} has no agent {name!r}{nearest(name, wanted.names)}")
        return wanted, name

    def task(self, request: TaskRequest, *, now: float, new_id: Callable[[], str], by: str = "") -> Task:
        """The task that is to be stored."""
        wanted, name = self.target(request)
        _check_times(request, now)
        _check_values(request.args)
        _check_text("key", request.key)
        self._check_method(wanted, request)
        fleet = wanted.spec.name
        task = Task(
            id=keyed_id(fleet, request.key) if request.key else new_id(),
            fleet=fleet,
            method=request.method,
            args=request.args,
            agent=name,
            priority=_priority(request.priority),
            submitted_at=now,
            submitted_by=by,
            not_before=request.not_before or (now + request.delay_s if request.delay_s else 0.0),
            timeout_s=request.timeout_s,
            max_attempts=request.max_attempts,
            kept_s=request.kept_s,
            keyed=bool(request.key),
            repeatable=request.repeatable,
        )
        size = len(encoded(task))
        if size > PAYLOAD_BYTES_MAX:
            raise TooLarge(f"the task has {size} bytes; {PAYLOAD_BYTES_MAX} is the limit: pass a reference instead")
        return task

    def check_call(self, spec: FleetSpec, method: str, args: dict[str, Any]) -> None:
        """Refuse a method that the fleet does not have, and arguments that do not fit it."""
        if spec.methods is None:
            if not METHOD.fullmatch(method):
                raise Refused(f"method {method[:80]!r} is not a name of up to 64 letters, digits and '_'")
            return
        check_args(spec, _method(spec, method), args)

    def _check_method(self, wanted: WantedFleet, request: TaskRequest) -> None:
        if wanted.spec.methods is None:
            self.check_call(wanted.spec, request.method, request.args)
            return
        method = _method(wanted.spec, request.method)
        key = (wanted.spec.name, request.method)
        seq, validator = self._validators.get(key, (-1, None))
        if seq != wanted.seq:
            validator = _validator(method)
            self._validators[key] = (wanted.seq, validator)
        _validate(validator, wanted.spec, method, request.args)


def keyed_id(fleet: str, key: str) -> str:
    """The task id of an idempotency key: the same for the same fleet and key, for ever."""
    return hashlib.sha256(f"{fleet}\0{key}".encode()).hexdigest()[:32]


def encoded(task: Task) -> bytes:
    """The task as JSON; Refused when it cannot be written as such."""
    try:
        return msgspec.json.encode(task)
    except (UnicodeEncodeError, OverflowError, TypeError, msgspec.MsgspecError, RecursionError) as error:
        raise Refused(f"the arguments cannot be written as JSON: {error}") from error


def check_args(spec: FleetSpec, method: Method, args: dict[str, Any]) -> None:
    _validate(_validator(method), spec, method, args)


def _method(spec: FleetSpec, name: str) -> Method:
    methods = spec.methods or []
    for method in methods:
        if method.name == name:
            return method
    among = [method.name for method in methods]
    has = f"; it has {', '.join(among)}" if among else "; it has none"
    raise NotFound(f"fleet {spec.name!r} has no method {name[:80]!r}{nearest(name, among) or has}")


def _validator(method: Method) -> Any:
    kind = jsonschema.validators.validator_for(method.args, default=jsonschema.Draft202012Validator)
    return kind(method.args)


def _validate(validator: Any, spec: FleetSpec, method: Method, args: dict[str, Any]) -> None:
    error = best_match(validator.iter_errors(args))
    if error is None:
        return
    where = f"{spec.name}.{method.name}"
    known = list(method.args.get("properties", {}))
    if not error.path and error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        raise Refused(f"{where} needs the argument {missing[0]!r}")
    if not error.path and error.validator == "additionalProperties":
        extra = next((name for name in args if name not in known), "")
        raise Refused(f"{where} has no argument {extra[:80]!r}{nearest(extra, known) or _has(known)}")
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path).lstrip(".")
    raise Refused(f"argument {path!r} of {where}: {error.message[:TEXT_CHARS_MAX]}")


def _has(known: Sequence[str]) -> str:
    return f"; it has {', '.join(known)}" if known else "; it has none"


def _priority(name: str) -> int:
    try:
        return Priority[name.upper()]
    except KeyError:
        names = [priority.name for priority in Priority]
        raise Refused(f"priority {name[:80]!r} is none of {', '.join(names)}{nearest(name.upper(), names)}") from None


def _check_times(request: TaskRequest, now: float) -> None:
    for name, low, high in (
        ("timeout_s", 0.0, TIMEOUT_S_MAX),
        ("delay_s", 0.0, DELAY_S_MAX),
        ("not_before", 0.0, now + DELAY_S_MAX),
        ("kept_s", 1.0, KEPT_S_MAX),
        ("max_attempts", 0, ATTEMPTS_MAX),
    ):
        value = getattr(request, name)
        if not math.isfinite(value) or not low <= value <= high:
            raise Refused(f"{name} is {value:g}; it must be from {low:g} to {high:.0f}")
    if request.delay_s and request.not_before:
        raise Refused("give delay_s or not_before, not both")
    if len(request.key) > KEY_CHARS_MAX:
        raise Refused(f"key has {len(request.key)} characters; {KEY_CHARS_MAX} is the limit")


def _check_text(where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(f"{where} holds characters that are not valid Unicode (lone surrogates)") from None


def _check_values(args: dict[str, Any]) -> None:
    """Only what JSON can say: finite numbers, valid text, names as keys, no endless nesting."""
    stack: list[tuple[str, Any, int]] = [(f"argument {name!r}", value, 1) for name, value in args.items()]
    for name in args:
        _check_text("an argument's name", name)
    while stack:
        where, value, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise Refused(f"{where[:80]}… is nested more than {DEPTH_MAX} deep")
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(f"{where} is {value}: JSON has only finite numbers")
        if isinstance(value, str):
            _check_text(where, value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise Refused(f"{where} has the key {key!r}, which is not text")
                _check_text(f"a key of {where}", key)
                stack.append((f"{where}.{key}", inner, depth + 1))
        elif isinstance(value, list | tuple):
            stack.extend((f"{where}[{index}]", inner, depth + 1) for index, inner in enumerate(value))

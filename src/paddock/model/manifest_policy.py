"""The section `policies`: its keys, what is judged of each policy, and the policy made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddock.model.manifest_words import NAME_TEXT, field
from paddock.model.policy import (
    OF_THE_MACHINE,
    OFFERED_NOWHERE,
    SYNONYMS,
    Action,
    Budget,
    Cause,
    Forecasting,
    Objective,
    Policy,
    Scoring,
    Step,
    Storm,
    Weights,
)
from paddock.model.shapes import Amount, Duration, ListOf, MapOf, Record, Schema, Size, Text, Whole, YesNo, nearest
from paddock.model.yaml_source import Leaf, Listing, Mistakes, Node, Table, Where, Wrong, short

STEPS_MAX = 20
OBJECTIVES_MAX = 20
_ACTIONS = tuple(str(action) for action in Action if action not in OF_THE_MACHINE)
_CAUSES = tuple(str(cause) for cause in Cause)


@dataclass(frozen=True)
class ActionName:
    def read(self, node: Node, path: str, mistakes: Mistakes) -> Action:
        text = Text(what="an action").read(node, path, mistakes)
        if text in SYNONYMS:
            return SYNONYMS[text]
        if text not in _ACTIONS:
            hint = nearest(text, (*_ACTIONS, *SYNONYMS))
            raise Wrong(node.where, f"{path} {short(text)} is not one of {', '.join(_ACTIONS)}{hint}")
        return Action(text)

    def schema(self) -> Schema:
        return {"enum": [*_ACTIONS, *SYNONYMS]}


_STEP = Record(
    {
        "action": field(ActionName(), "What is done.", required=True),
        "attempts": field(Whole(1, 100), "How often, before the next step; default 1."),
        "verify_s": field(Duration(low=0.1, high=86_400), "By then the score must be recovered; default 30s."),
        "cooldown_s": field(Duration(high=86_400), "Rest after a step that did not help; default 5s."),
    }
)


@dataclass(frozen=True)
class StepShape:
    """A step with its fields, or just its action."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> dict[str, Any]:
        if isinstance(node, Table):
            return _STEP.read(node, path, mistakes)
        return {"action": ActionName().read(node, path, mistakes)}

    def schema(self) -> Schema:
        return {"anyOf": [_STEP.schema(), ActionName().schema()]}


_LADDER = ListOf(StepShape(), STEPS_MAX, 1)


@dataclass(frozen=True)
class Share:
    """A number over 0 and below 1: 99.9 % is written 0.999."""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> float:
        text = node.text if isinstance(node, Leaf) else ""
        if text.endswith("%") or (isinstance(node, Leaf) and _is_percent(node.value)):
            raise Wrong(node.where, f"{path} is {text[:20]}; write a share between 0 and 1, such as 0.999 for 99.9 %")
        value = Amount(0, 1).read(node, path, mistakes)
        if not 0 < value < 1:
            raise Wrong(node.where, f"{path} is {value:g}, but must be over 0 and below 1: what is promised may fail")
        return value

    def schema(self) -> Schema:
        return {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}


def _is_percent(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 < value <= 100


_WEIGHTS = Record(
    {name: field(Amount(0, 100), f"Points of {name}; all points add up to 100.") for name in Weights.__struct_fields__}
)
_SCORING = Record(
    {
        "weights": field(_WEIGHTS, "Points of each component; those not written keep their default."),
        "slow_s": field(Duration(low=0.001), "Answers up to this are quick."),
        "slow_s_max": field(Duration(low=0.001), "Answers from this on count nothing."),
        "memory_bytes_max": field(
            Size(1_048_576, zero=True), "Above this memory counts as full; 0: the fleet's own limit."
        ),
        "alert_below": field(Whole(0, 100), "A score below this is told."),
        "heal_below": field(Whole(0, 100), "A score below this is healed."),
        "heal_fails": field(Whole(1, 1000), "In so many evaluations in a row."),
        "recovered_at": field(Whole(1, 100), "An incident ends once the score is at least this again."),
        "steady": field(Whole(1, 1000), "A band is left after so many evaluations outside of it."),
    }
)
_BUDGET = Record(
    {
        "per_min": field(Whole(1, 100_000), "Healing actions of the fleet per minute."),
        "share": field(Amount(0.0001, 1), "Of the fleet's agents that may be healed at the same time; at least one."),
    }
)
_STORM = Record(
    {
        "failures": field(Whole(2, 10_000), "So many that look alike have one cause ..."),
        "window_s": field(Duration(low=1.0), "... when they come within this time ..."),
        "share": field(Amount(0, 1), "... and are at least this share of those that could have been hit."),
    }
)
_FORECAST = Record(
    {
        "horizon_s": field(Duration(low=1.0), "A threshold that is crossed later is not told."),
        "recycle": field(YesNo(), "Replace the agent gracefully before it gets there."),
    }
)
_OBJECTIVE = Record(
    {
        "name": field(NAME_TEXT, "Name of the objective, once in its policy.", required=True),
        "measure": field(Text(choices=("availability", "success", "latency")), "What is promised.", required=True),
        "share": field(Share(), "0.999 for 99.9 %.", required=True),
        "within_s": field(Duration(low=0.001), "latency: a task that took at most this counts as good."),
        "window_s": field(Duration(low=60.0), "Over which time; default 30d."),
    }
)
POLICY = Record(
    {
        "heal": field(YesNo(), "false: judge and tell, never act."),
        "scoring": field(_SCORING, "How the score is made, and what it means."),
        "ladder": field(_LADDER, "Recovery steps, in order; escalate is the last."),
        "causes": field(MapOf(Text(choices=_CAUSES), _LADDER), "Ladders for single causes, instead of ladder."),
        "attempts_max": field(Whole(1, 1000), "Steps taken for one agent within window_s; then people are told."),
        "window_s": field(Duration(low=1.0), "See attempts_max."),
        "learn": field(YesNo(), "Whether steps may change places by what helped before."),
        "budget": field(_BUDGET, "How much healing is allowed at once."),
        "storm": field(_STORM, "When failures are taken to have one cause."),
        "forecast": field(_FORECAST, "What is told, or done, before it happens."),
        "objectives": field(ListOf(_OBJECTIVE, OBJECTIVES_MAX), "Service levels."),
        "standby": field(NAME_TEXT, "The fleet for activate-backup."),
    }
)


def build_policy(name: str, node: Node, mistakes: Mistakes, warnings: list[str]) -> Policy | None:
    """The policy, or None when it has mistakes (which are told)."""
    before = len(mistakes)
    try:
        values = POLICY.read(node, f"policies.{name}", mistakes)
    except Wrong as wrong:
        mistakes.add(wrong.where, wrong.text)
        return None
    if len(mistakes) > before or not isinstance(node, Table):
        return None
    _check_scoring(node, values.get("scoring", {}), mistakes)
    _check_objectives(node, values.get("objectives", []), mistakes)
    fields = dict(values)
    for key, ladder, where in _ladders(values, node):
        steps = _steps(f"policies.{name}.{key}", ladder, where, mistakes)
        if not steps or steps[-1].action is not Action.ESCALATE:
            warnings.append(f"{where.where}: policies.{name}.{key} does not end with escalate, so that is added")
            steps.append(Step(action=Action.ESCALATE))
        nowhere = [step.action for step in steps if step.action in OFFERED_NOWHERE]
        warnings += [f"{where.where}: policies.{name}.{key}: no runtime offers {one}: skipped" for one in nowhere]
        if "standby" not in values and any(step.action is Action.ACTIVATE_BACKUP for step in steps):
            mistakes.add(where.where, f"policies.{name}.{key} has activate-backup, and the policy names no standby")
        if key == "ladder":
            fields["ladder"] = steps
        else:
            fields.setdefault("_causes", {})[Cause(key.removeprefix("causes."))] = steps
    if len(mistakes) > before:
        return None
    scoring = dict(values.get("scoring", {}))
    scoring["weights"] = Weights(**scoring.get("weights", {}))
    fields |= {
        "scoring": Scoring(**scoring),
        "causes": fields.pop("_causes", {}),
        "budget": Budget(**values.get("budget", {})),
        "storm": Storm(**values.get("storm", {})),
        "forecast": Forecasting(**values.get("forecast", {})),
        "objectives": [Objective(**entry) for entry in values.get("objectives", [])],
    }
    return Policy(name=name, **fields)


def _ladders(values: Mapping[str, Any], node: Table) -> Iterator[tuple[str, list[dict[str, Any]], Listing]]:
    """(key, steps as read, where they stand) of every ladder that is written."""
    where = node.entries.get("ladder")
    if isinstance(where, Listing):
        yield "ladder", values["ladder"], where
    causes = node.entries.get("causes")
    for cause, ladder in values.get("causes", {}).items():
        below = causes.entries[cause] if isinstance(causes, Table) else None
        if isinstance(below, Listing):
            yield f"causes.{cause}", ladder, below


def _steps(path: str, ladder: list[dict[str, Any]], node: Listing, mistakes: Mistakes) -> list[Step]:
    steps: list[Step] = []
    seen: dict[Action, int] = {}
    for values, item in zip(ladder, node.items, strict=False):
        step = Step(**values)
        if steps and steps[-1].action is Action.ESCALATE:
            mistakes.add(item.where, f"{path}: after escalate people decide, so {step.action} is never reached")
        elif step.action in seen:
            hint = "a ladder only climbs, so give that step more attempts"
            mistakes.add(item.where, f"{path} returns to {step.action} of line {seen[step.action]}; {hint}")
        if step.attempts > 1 and step.cooldown_s == 0:
            where = _key(item, "cooldown_s")
            mistakes.add(
                where, f"{path}: {step.action} is tried {step.attempts} times without a rest; raise cooldown_s"
            )
        if step.action is Action.ESCALATE and values.keys() - {"action"}:
            mistakes.add(item.where, f"{path}: escalate is done once and verified by people; write only 'escalate'")
        seen.setdefault(step.action, item.where.line)
        steps.append(step)
    return steps


def _key(node: Node, key: str) -> Where:
    return node.keys[key] if isinstance(node, Table) and key in node.keys else node.where


def _check_scoring(node: Table, values: Mapping[str, Any], mistakes: Mistakes) -> None:
    tree = node.entries.get("scoring")
    if not isinstance(tree, Table):
        return
    weights = Weights(**values.get("weights", {}))
    points = {name: getattr(weights, name) for name in Weights.__struct_fields__}
    if abs(sum(points.values()) - 100.0) > 1e-6:
        rest = [f"{name} {value:g}" for name, value in points.items() if name not in values.get("weights", {})]
        kept = f" (with {', '.join(rest)}, which are not written)" if rest else ""
        mistakes.add(_key(tree, "weights"), f"the weights add up to {sum(points.values()):g}, not to 100{kept}")
    scoring = Scoring(**{key: value for key, value in values.items() if key != "weights"})
    for low, high in (("heal_below", "alert_below"), ("alert_below", "recovered_at"), ("slow_s", "slow_s_max")):
        one, two = getattr(scoring, low), getattr(scoring, high)
        equal = low != "slow_s"  # as limits of a score they may be one
        if one > two or (one == two and not equal):
            written = low if low in values else high
            must = "must not be above" if equal else "must be below"
            mistakes.add(_key(tree, written), f"{low} ({one:g}) {must} {high} ({two:g})")


def _check_objectives(node: Table, entries: list[dict[str, Any]], mistakes: Mistakes) -> None:
    tree = node.entries.get("objectives")
    for entry, item in zip(entries, tree.items if isinstance(tree, Listing) else (), strict=False):
        latency = entry["measure"] == "latency"
        if latency and "within_s" not in entry:
            mistakes.add(item.where, f"objective {entry['name']!r} promises latency and lacks within_s: how quick?")
        if not latency and "within_s" in entry:
            mistakes.add(_key(item, "within_s"), f"objective {entry['name']!r}: within_s goes with latency alone")

"""What to do next about one incident: the recovery ladder.

              ┌─ its node restarted it by itself ──────────┐
              │                                            v
    open ─────┼──rung, budget──> acting ──done──────> verifying ──well──> recovered
     │        │                    │ ^                     │
     │        │   could not be done│ │rung, budget         │ no better by then
     │        └──no budget──┐      v │                     v
     │                      └────> waiting <───cool-down───┘
     ├──one cause of many──> held ──that is over──> as if open
     │
     └── no rung left, too many steps, too long, breaker, not to be healed ──> escalated ──well──> recovered
         wanted no more ──> closed                                              (from every state)

`next_step` decides; `apply` gives the incident to write before the deed; the deed is asked of the node for one epoch,
so that doing it twice is doing it once; `acted` gives the incident to write when the node has answered. Who dies
between any two of them finds the same step again. What is not known is waited for: neither is a step judged by it, nor
is one taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from paddock.decide.learn import because, order, until_escalation
from paddock.decide.rungs import World, begin, end, missing, old, pending_step, rung_of, rungs, skip
from paddock.decide.telling import asked
from paddock.model.agent import AgentState
from paddock.model.incident import Incident, IncidentState, Outcome, Severity, StepTaken
from paddock.model.policy import Action, Cause, Policy, Step

AT_IT_S = 5.0
"""How long its node is left alone before it is looked at again."""
ANSWER_S_MAX = 60.0
"""A node that has not answered for so long after `verify_s` did not do it."""

ON_THE_WAY = (AgentState.PENDING, AgentState.STARTING, AgentState.DRAINING, AgentState.STOPPING)
RUNS = (AgentState.READY, AgentState.DEGRADED)


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing to do before `until` (infinite: before something changes)."""

    until: float
    why: str
    state: IncidentState = IncidentState.WAITING
    ended: StepTaken | None = None
    """The step whose outcome is now known. Likewise below."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for this step; asking again changes nothing."""

    step: StepTaken
    why: str
    skipped: list[StepTaken] = []
    ended: StepTaken | None = None


class Verify(msgspec.Struct, frozen=True, kw_only=True):
    """Look again at `until`, or when something changes, what `step` did."""

    until: float
    why: str
    step: StepTaken
    ended: StepTaken | None = None


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    why: str
    ended: StepTaken | None = None


class Escalate(msgspec.Struct, frozen=True, kw_only=True):
    """People are told; nothing more is done without them."""

    why: str
    skipped: list[StepTaken] = []
    ended: StepTaken | None = None


class Close(msgspec.Struct, frozen=True, kw_only=True):
    why: str
    ended: StepTaken | None = None


Decision = Wait | Act | Verify | Recovered | Escalate | Close


def next_step(policy: Policy, incident: Incident, world: World, now: float, dice: Callable[[], float]) -> Decision:
    """Decide what follows for an incident of one agent. `dice` gives numbers from 0 to 1."""
    state, pending = incident.state, pending_step(incident)
    if state.over:
        return Wait(until=math.inf, why="it is over", state=state)
    if not world.wanted:
        ended = pending and end(pending, Outcome.UNKNOWN, world, now, "the agent is wanted no more")
        return Close(why=f"{incident.about} is wanted no more", ended=ended)
    if _well(policy, world) and not incident.asked_by:
        found = _recovered(policy, incident, world, now)
        if found is not None:
            return found
    if pending is not None:
        return _under_way(policy, incident, pending, world, now)
    if state is IncidentState.ESCALATED:
        return Wait(until=math.inf, why=incident.note, state=state)
    if world.held:
        return Wait(until=math.inf, why="its common cause is dealt with first", state=IncidentState.HELD)
    if overdue := _overdue(policy, incident, now):
        return Escalate(why=overdue)
    if state is IncidentState.WAITING and now < incident.next_at:
        return Wait(until=incident.next_at, why=incident.note)
    if not any(step.outcome is not Outcome.SKIPPED for step in incident.steps):
        reflex = _reflex(policy, incident, world, now)
        if reflex is not None:
            return reflex
    if doubt := _doubt(policy, incident, world):
        return Wait(until=_soon(incident, now), why=doubt, state=IncidentState.OPEN)  # until it is known, no longer
    if hopeless := _hopeless(policy, incident, world):
        return Escalate(why=hopeless)
    return _climb(policy, incident, world, now, dice)


def give_up_s(policy: Policy, cause: Cause) -> float:
    """An incident that is older is escalated: the window, and the time that its ladder may take."""
    steps = until_escalation(rungs(policy, cause))
    return policy.window_s + sum(step.attempts * (2 * step.verify_s + step.cooldown_s) for step in steps)


def by_hand(policy: Policy, incident: Incident, action: Action, world: World, *, who: str, now: float) -> Act:
    """A step that a person asks for: it needs no rung, no budget and no breaker. One under way gives way."""
    pending = pending_step(incident)
    ended = pending and end(pending, Outcome.UNKNOWN, world, now, f"{who} asked for {action} before it was known")
    step = begin(policy, incident, rung_of(policy, incident, action), world, f"{who} asked for it", now)
    return Act(step=msgspec.structs.replace(step, by=who), why=f"{who} asked for {action}", ended=ended)


# --- what becomes of the incident


def apply(incident: Incident, decision: Decision, now: float) -> Incident:
    """The incident after a decision: written, by compare-and-set, before anything is done."""
    steps = {step.number: step for step in incident.steps}
    fresh = [decision.ended] if decision.ended else []
    fresh += decision.skipped if isinstance(decision, Act | Escalate) else []
    fresh += [decision.step] if isinstance(decision, Act | Verify) else []
    steps |= {step.number: step for step in fresh}
    changed = msgspec.structs.replace(incident, steps=[steps[number] for number in sorted(steps)], note=decision.why)
    replace = msgspec.structs.replace
    if isinstance(decision, Wait):
        return replace(changed, state=decision.state, next_at=decision.until if decision.until < math.inf else 0.0)
    if isinstance(decision, Act):
        act, acting = decision.step, IncidentState.ACTING
        acted_at = incident.acted_at or act.started_at
        return replace(changed, state=acting, acted_at=acted_at, next_at=act.due_at, asked_by="")
    if isinstance(decision, Verify):
        return replace(changed, state=IncidentState.VERIFYING, next_at=decision.until)
    if isinstance(decision, Recovered):
        return replace(changed, state=IncidentState.RECOVERED, recovered_at=now, closed_at=now, next_at=0.0)
    if isinstance(decision, Close):
        return replace(changed, state=IncidentState.CLOSED, closed_at=now, next_at=0.0)
    worst = incident.severity if incident.severity is Severity.CRITICAL else Severity.ERROR
    return replace(changed, state=IncidentState.ESCALATED, severity=worst, next_at=0.0)


def acted(policy: Policy, incident: Incident, now: float, *, ok: bool, detail: str = "") -> Incident:
    """The incident after its step was done, or could not be done. Without a step under way nothing changes."""
    step, replace = pending_step(incident), msgspec.structs.replace
    if step is None or incident.state is not IncidentState.ACTING:
        return incident
    if ok and step.action is Action.ESCALATE:
        return asked(incident, step)
    rung = rung_of(policy, incident, step.action)
    others = [one for one in incident.steps if one.number != step.number]
    if ok:
        done = replace(step, acted_at=now, due_at=now + rung.verify_s, detail=detail)
        why = f"{step.action} done; {step.expects}"
        return replace(incident, state=IncidentState.VERIFYING, steps=[*others, done], next_at=done.due_at, note=why)
    failed = replace(step, ended_at=now, outcome=Outcome.FAILED, detail=detail)
    why = f"{step.action} could not be done: {detail}" if detail else f"{step.action} could not be done"
    next_at = now + rung.cooldown_s
    return replace(incident, state=IncidentState.WAITING, steps=[*others, failed], next_at=next_at, note=why)


# --- the parts of the decision


def _well(policy: Policy, world: World) -> bool:
    return world.state in RUNS and world.score >= policy.scoring.recovered_at


def _recovered(policy: Policy, incident: Incident, world: World, now: float) -> Decision | None:
    """It is well: is that the end of it? None: not yet."""
    pending = pending_step(incident)
    if pending is None:
        if not world.confirmed:
            return None
        node = _by_node(policy, incident, world, now)
        ended = node and end(node, Outcome.RECOVERED, world, now, "")
        return Recovered(why="its node restarted it" if ended else "it is well by itself", ended=ended)
    if old(pending, world):
        if now < pending.due_at or incident.state is IncidentState.ACTING:
            return None
        ended = end(pending, Outcome.FAILED, world, now, "no new incarnation came of it")
        return Recovered(why="it is well by itself", ended=ended) if world.confirmed else None
    acting = incident.state is IncidentState.ACTING and world.epoch <= pending.epoch
    if acting or not world.confirmed:
        return None
    ended = end(pending, Outcome.RECOVERED, world, now, pending.detail)
    return Recovered(why=f"{pending.action} helped: its score is {world.score}", ended=ended)


def _doubt(policy: Policy, incident: Incident, world: World) -> str:
    """What is not known of the agent and must be before it is judged; empty: it is known to be ill. A forecast is of
    one that is well: that it is not confirmed means that the trend goes on."""
    if world.score < 0:
        return "how it is is not known yet"
    if _well(policy, world) and not world.confirmed and incident.cause is not Cause.FORECAST:
        return "it seems well: what was ill has not been measured again yet"
    return ""


def _soon(incident: Incident, now: float) -> float:
    """When to look again at what cannot be known at once."""
    return incident.next_at if incident.next_at > now else now + AT_IT_S


def _under_way(policy: Policy, incident: Incident, step: StepTaken, world: World, now: float) -> Decision:
    rung = rung_of(policy, incident, step.action)
    if incident.state is IncidentState.ACTING:
        if world.epoch > step.epoch:
            due = msgspec.structs.replace(step, acted_at=now, due_at=now + rung.verify_s)
            return Verify(until=due.due_at, why="a new incarnation is there", step=due)
        if now < step.due_at + ANSWER_S_MAX:
            return Act(step=step, why=step.why)
        ended = end(step, Outcome.FAILED, world, now, "its node did not answer")
        return Wait(until=now + rung.cooldown_s, why=f"{step.action} failed: its node did not answer", ended=ended)
    doubt = _doubt(policy, incident, world)
    if not world.refuted:
        if now < step.due_at:
            return Verify(until=step.due_at, why=incident.note or step.expects, step=step)
        if doubt and not old(step, world) and now < step.due_at + give_up_s(policy, incident.cause):
            return Verify(until=_soon(incident, now), why=doubt, step=step)
        if doubt and not old(step, world):
            ended = end(step, Outcome.UNKNOWN, world, now, doubt)
            return Wait(until=now + rung.cooldown_s, why=doubt, ended=ended)
    outcome = Outcome.FAILED if old(step, world) else Outcome.NO_BETTER
    detail = "no new incarnation came of it" if outcome is Outcome.FAILED else step.detail
    ended = end(step, outcome, world, now, detail)
    found = f"it is {world.state}, its score {max(world.score, 0)}"
    why = f"{step.action} did not help: {found}; next in {rung.cooldown_s:g} s"
    return Wait(until=now + rung.cooldown_s, why=why, ended=ended)


def _overdue(policy: Policy, incident: Incident, now: float) -> str:
    age_s = now - incident.opened_at
    return f"not mended in {age_s / 60:.0f} min" if age_s >= give_up_s(policy, incident.cause) else ""


def _hopeless(policy: Policy, incident: Incident, world: World) -> str:
    """Why nothing more is tried; empty: something may be."""
    if not policy.heal:
        return f"the policy {policy.name} only judges and tells (heal: false)"
    if incident.cause is Cause.FORECAST and not policy.forecast.recycle:
        return f"the policy {policy.name} only tells of forecasts (recycle: false)"
    taken = world.steps_before + sum(
        step.by == "policy" and step.outcome is not Outcome.SKIPPED for step in incident.steps
    )
    if taken >= policy.attempts_max:
        return f"{taken} steps within {policy.window_s / 60:.0f} min did not last, {policy.attempts_max} are the limit"
    return "" if world.breaker.ok else world.breaker.why


def _reflex(policy: Policy, incident: Incident, world: World, now: float) -> Decision | None:
    """Before the first step: what its node does by itself comes first."""
    if world.state in ON_THE_WAY:
        return Wait(until=now + AT_IT_S, why=f"its node is at it: {world.state}", state=IncidentState.OPEN)
    step = _by_node(policy, incident, world, now)
    if step is None or world.state not in RUNS:
        return None
    return Verify(until=step.due_at, why="its node restarted it", step=step)


def _by_node(policy: Policy, incident: Incident, world: World, now: float) -> StepTaken | None:
    """The node's own restart, when there was one and no step before."""
    if world.epoch <= incident.epoch or any(step.outcome is not Outcome.SKIPPED for step in incident.steps):
        return None
    rung = rung_of(policy, incident, Action.RESTART)
    step = begin(policy, incident, rung, world, "its node starts it again", now)
    return msgspec.structs.replace(step, by="node", epoch=incident.epoch, acted_at=now)


def _climb(policy: Policy, incident: Incident, world: World, now: float, dice: Callable[[], float]) -> Decision:
    """Take the next rung that is left and offered, and say which are not offered."""
    used = Counter(
        step.action
        for step in incident.steps
        if step.outcome is not Outcome.SKIPPED and step.by in ("policy", "node")  # what people ask for takes no attempt
    )
    tried = [step.action for step in incident.steps if step.outcome in (Outcome.NO_BETTER, Outcome.FAILED)]
    skipped = {step.action for step in incident.steps if step.outcome is Outcome.SKIPPED and step.by == "policy"}
    plain = ladder = rungs(policy, incident.cause)
    if policy.learn:
        ladder = order(
            ladder, world.tallies, signature=incident.signature, cause=incident.cause, dice=dice, tried=tried
        )
    passed: list[StepTaken] = []
    for rung in _left(ladder, used):
        if rung.action in skipped:
            continue
        lacks = missing(policy, rung.action, world)
        if lacks:
            skipped.add(rung.action)
            passed.append(skip(incident, rung, world, lacks, now, len(passed)))
            continue
        if not world.budget.ok:
            return Wait(until=max(world.budget.until, now), why=world.budget.why)
        why = _why(policy, incident, rung, tried)
        usual = next(one for one in _left(plain, used) if not missing(policy, one.action, world))
        if usual.action is not rung.action:
            why += "; " + because(rung.action, usual.action, world.tallies, incident.signature, incident.cause, tried)
        step = begin(policy, incident, rung, world, why, now)
        step = msgspec.structs.replace(step, number=step.number + len(passed))
        return Act(step=step, why=why, skipped=passed)
    return Escalate(why="no step of its ladder is left", skipped=passed)


def _left(ladder: Sequence[Step], used: Counter[Action]) -> Iterator[Step]:
    """The rungs that have attempts left, before people are asked."""
    used = Counter(used)
    for rung in until_escalation(ladder):
        if used[rung.action] < rung.attempts:
            yield rung
        used[rung.action] = max(0, used[rung.action] - rung.attempts)


def _why(policy: Policy, incident: Incident, rung: Step, tried: Sequence[Action]) -> str:
    if not tried:
        waited = f" (it waited: {incident.note})" if incident.note else ""
        return f"{incident.cause}: {incident.title}{waited}"
    rest_s = rung_of(policy, incident, tried[-1]).cooldown_s
    before = ", ".join(dict.fromkeys(tried)) + " did not help"
    before += f", and its cool-down of {rest_s:g} s is over" if rest_s else ""
    return f"{before}; {rung.action} once more" if rung.action in tried else before

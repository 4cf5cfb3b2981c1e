"""When many failures are one, and how much healing is allowed at once.

On a node, for the agents of one fleet and version (`hold`):

    restarting ──so many agents, one signature──> held ──canary due──> canary runs ──stable──> restarting
                                                   ^                        │
                                                   └── next canary, later ──┘ died

On the server: `correlate` finds what open incidents have in common, `allowed` rations healing, `breaker` stops a
healer that does not help:

    closed ──most of its last steps did not help──> open ──rest──> one step on trial ──helped──> closed
                                                     ^                        └──no better──┐
                                                     └──────────────────────────────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import msgspec

from paddock.decide.signature import digest, from_outside
from paddock.model.agent import Event
from paddock.model.incident import Incident, Outcome, StepTaken
from paddock.model.policy import Budget, Storm

CANARY_S_MIN = 1.0
CANARY_S_MAX = 300.0
"""Rest before a canary: doubles with every one that died."""

TRIAL_STEPS = 10
"""The breaker judges so many of the last steps …"""
TRIAL_STEPS_MIN = 6
"""… and at least so many …"""
TRIAL_BAD_SHARE = 0.7
"""… of which this share did not help."""
TRIAL_REST_S = 600.0
"""So long an open breaker rests before one step on trial."""

ASK_AGAIN_S = 5.0
"""When it is not known when a budget has room again."""


class Answer(msgspec.Struct, frozen=True):
    """Whether something may be done now, and if not, why, and when to ask again."""

    ok: bool
    until: float = 0.0
    why: str = ""


YES = Answer(True)


# --- on a node


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """One end of an incarnation, or a start that did not succeed."""

    agent: str
    signature: str
    at: float
    stable: bool
    """It had been ready for `stable_s`."""
    outside: bool = False
    """It was killed by somebody else."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """The agents of one fleet and version are not started again, but for one canary at a time."""

    signature: str
    agents: list[str]
    """Those that died of it, in order; the canary is the first."""
    since: float
    canary_at: float
    tries: int = 0
    """Canaries that died."""

    @property
    def canary(self) -> str:
        return self.agents[0]

    @property
    def text(self) -> str:
        """For people, and for the status of those that are held."""
        return f"common cause: {len(self.agents)} agents ended alike ({self.signature})"


def counts(death: Death) -> bool:
    """Whether a death may be one of a common cause: a stable agent, or one killed by others, is no sign of it."""
    return not death.stable and not death.outside


def hold(policy: Storm, deaths: Iterable[Death], now: float, *, reached: float = math.inf) -> Hold | None:
    """Judge after each death whether to stop restarting. `deaths` are those remembered of one fleet and version on this
    node, oldest first; older ones than `window_s` need not be. `reached`: so many agents a rollout has brought this
    version to; it waits for them, so more can not die of it. The share of the policy plays no part here: a node sees
    only its own agents, and those that run on go on."""
    alike: dict[str, dict[str, float]] = {}
    for death in deaths:
        if counts(death) and now - death.at <= policy.window_s:
            alike.setdefault(death.signature, {}).setdefault(death.agent, death.at)
    if not alike:
        return None
    signature, agents = max(alike.items(), key=lambda item: len(item[1]))
    if len(agents) < max(2, min(policy.failures, reached)):
        return None
    return Hold(signature=signature, agents=list(agents), since=now, canary_at=now + CANARY_S_MIN)


def may_start(held: Hold, agent: str, now: float, *, last: Death | None = None) -> bool:
    """Whether an agent of a held fleet and version may be started. `last` is its last death under this version: who was
    well until others killed it, or failed in another way, is not held; who was never tried is."""
    if agent == held.canary:
        return now >= held.canary_at
    if last is None:
        return False
    return not counts(last) or last.signature != held.signature


def after_held_death(held: Hold, death: Death, now: float) -> Hold:
    """One more has died: it joins; the canary makes room for the next one, later."""
    if not counts(death) or (death.signature != held.signature and death.agent != held.canary):
        return held
    rest = [agent for agent in held.agents if agent != death.agent]
    if death.agent != held.canary:
        return msgspec.structs.replace(held, agents=held.agents if death.agent in held.agents else [*rest, death.agent])
    tries = held.tries + 1
    rest_s = min(CANARY_S_MAX, CANARY_S_MIN * 2.0 ** min(tries, 30))
    return msgspec.structs.replace(held, agents=[*rest, death.agent], tries=tries, canary_at=now + rest_s)


def after_stable(held: Hold, agent: str) -> Hold | None:
    """An agent of this version has become stable: None, the hold is over, when it is one that had died of this cause.
    (Its canary, or one that a person healed.)"""
    return None if agent in held.agents else held


# --- on the server


class Population(msgspec.Struct, frozen=True, kw_only=True):
    """How many could have been hit."""

    fleets: dict[str, int] = {}
    """fleet → its agents."""
    releases: dict[str, int] = {}
    """fleet@version → agents that run it, or should."""
    nodes: dict[str, int] = {}
    """node → agents placed on it."""
    depends: dict[str, list[str]] = {}
    """fleet → fleets that it depends on."""
    down: frozenset[str] = frozenset()
    """Fleets of which nobody is ready."""


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What several open incidents have in common."""

    kind: str
    """dependency, release, node or signature."""
    value: str
    name: str
    """Short and stable, for its key: the same cause has the same name."""
    members: list[str]
    """Keys of incidents."""
    agents: list[str]
    share: float
    """Of those that could have been hit."""
    text: str


_KINDS = ("signature", "node", "release", "dependency")
"""Between equals the later one says more."""


def correlate(
    policy: Storm, incidents: Sequence[Incident], population: Population, now: float, known: Collection[str] = ()
) -> list[Common]:
    """Find common causes among open incidents of agents, the one that explains most first; an incident belongs to one
    at most. `known` are the names of common causes that are open: those take up each further incident that fits."""
    left = [
        incident
        for incident in incidents
        if incident.kind == "agent" and not incident.state.over and not from_outside(incident.signature)
    ]
    found: list[Common] = []
    while left:
        groups = [_common(key, members, population) for key, members in _groups(left, population).items()]
        groups = [group for group in groups if group.name in known or _enough(policy, group, left, now)]
        if not groups:
            break
        best = max(groups, key=lambda one: (round(one.share, 2), len(one.agents), _KINDS.index(one.kind), one.value))
        found.append(best)
        taken = set(best.members)
        left = [incident for incident in left if incident.key not in taken]
    return found


def held_by_node(told: Event, incidents: Iterable[Incident], population: Population) -> Common | None:
    """What a node holds has a common cause, however few incidents of it are open now: the node has seen enough agents
    end alike. `told` is its event `node.held`. None: there is no incident of it yet."""
    data = told.data
    cause, version = str(data.get("signature", "")).partition(":")[0], str(data.get("version", ""))
    members = [
        incident
        for incident in incidents
        if (incident.kind, incident.fleet, incident.release, incident.cause) == ("agent", told.about, version, cause)
    ]
    if not members:
        return None
    return _common(("release", _release(members[0])), members, population, also=data.get("agents", ()))


def _release(incident: Incident) -> str:
    return f"{incident.fleet}@{incident.release} · {incident.cause}"


def _groups(incidents: Sequence[Incident], population: Population) -> dict[tuple[str, str], list[Incident]]:
    groups: dict[tuple[str, str], list[Incident]] = {}
    for incident in incidents:
        keys = [("signature", incident.signature)]
        if incident.release:
            keys.append(("release", _release(incident)))
        if incident.node and len(population.nodes) > 1:  # where all agents are on one, its name explains nothing
            keys.append(("node", incident.node))
        needs = population.depends.get(incident.fleet, [])
        keys += [("dependency", fleet) for fleet in needs if fleet in population.down]
        for key in keys:
            groups.setdefault(key, []).append(incident)
    return groups


def _common(
    key: tuple[str, str], members: Sequence[Incident], population: Population, *, also: Iterable[str] = ()
) -> Common:
    """`also`: agents that it has hit, and of which no incident is open."""
    kind, value = key
    agents = sorted({incident.about for incident in members} | set(also))
    size = max(_size(kind, value, members, population), len(agents))
    share = len(agents) / size
    what = {
        "signature": f"ended alike: {value}",
        "node": f"are on node {value}",
        "release": f"run {value.partition(' · ')[0]} ({value.partition(' · ')[2]})",
        "dependency": f"depend on {value}, of which nobody is ready",
    }[kind]
    return Common(
        kind=kind,
        value=value,
        name=digest(f"{kind}:{value}"),
        members=[incident.key for incident in members],
        agents=agents,
        share=share,
        text=f"{len(agents)} agents that failed {what}; that is {share:.0%} of the {size} that could have",
    )


def _size(kind: str, value: str, members: Sequence[Incident], population: Population) -> int:
    """How many agents could have been hit by it."""
    if kind == "node":
        return population.nodes.get(value, 0)
    if kind == "release":
        return population.releases.get(value.partition(" · ")[0], 0)
    if kind == "dependency":
        return sum(population.fleets.get(fleet, 0) for fleet, needs in population.depends.items() if value in needs)
    return sum(population.fleets.get(fleet, 0) for fleet in {incident.fleet for incident in members})


def _enough(policy: Storm, group: Common, incidents: Sequence[Incident], now: float) -> bool:
    members = set(group.members)
    recent = {one.about for one in incidents if one.key in members and now - one.sign_at <= policy.window_s}
    return len(recent) >= max(2, policy.failures) and group.share >= policy.share


def allowed(budget: Budget, *, size: int, acted_at: Sequence[float], healing: int, now: float) -> Answer:
    """Whether one more healing action of a fleet may begin. `acted_at` are the times of its actions of the last minute
    (older ones do not hurt), `healing` how many of its `size` agents are under healing now."""
    recent = sorted(at for at in acted_at if now - at < 60.0)
    if len(recent) >= budget.per_min:
        until = recent[len(recent) - budget.per_min] + 60.0 if budget.per_min > 0 else now + 60.0
        return Answer(False, max(until, now + 0.1), f"{len(recent)} healing actions in the last minute are the limit")
    most = max(1, int(size * budget.share))
    if healing >= most:
        why = f"{healing} of {size} agents are under healing already, {most} may be"
        return Answer(False, now + ASK_AGAIN_S, why)
    return YES


def breaker(steps: Iterable[StepTaken], now: float) -> Answer:
    """Whether the healer may go on acting in a fleet. `steps` are those of its policy, for all its agents, of the last
    hours; what nodes did by themselves and what people asked for does not count."""
    ours = [step for step in steps if step.by == "policy"]
    ended = sorted((step for step in ours if _judged(step)), key=lambda step: step.ended_at)
    recent: list[bool] = []
    opened_at: float | None = None
    for step in ended:
        bad = step.outcome is not Outcome.RECOVERED
        if opened_at is None:
            recent = [*recent, bad][-TRIAL_STEPS:]
            if len(recent) >= TRIAL_STEPS_MIN and sum(recent) >= TRIAL_BAD_SHARE * len(recent):
                opened_at = step.ended_at
        elif bad:
            opened_at = step.ended_at
        else:
            opened_at, recent = None, []
    if opened_at is None:
        return YES
    why = (
        f"{sum(recent)} of the last {len(recent)} healing steps in this fleet did not help: for "
        f"{TRIAL_REST_S / 60:.0f} min it is not healed, then one step is on trial"
    )
    if now < opened_at + TRIAL_REST_S:
        return Answer(False, opened_at + TRIAL_REST_S, why)
    on_trial = any(step.outcome is Outcome.PENDING and step.started_at >= opened_at + TRIAL_REST_S for step in ours)
    return Answer(False, now + ASK_AGAIN_S, f"{why}, which it is now") if on_trial else YES


def _judged(step: StepTaken) -> bool:
    return step.outcome in (Outcome.RECOVERED, Outcome.NO_BETTER, Outcome.FAILED)

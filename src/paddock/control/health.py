"""The health of every agent: facts gathered, scored by `decide/health.py`, kept over time; signs told to who heals.

    vitals · status · results · deaths ──> facts ──score──> served with the agent, history of it
                                                  └──sign──> `on_sign`

An agent is judged at once when a probe of it changes its mind, in the next round when anything else is new of it, and
once a minute at least, a slice of them at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from paddock.control.archive import Archive
from paddock.control.mirror import Mirror
from paddock.control.recorder import Recorder
from paddock.control.vitals import VitalsBook
from paddock.decide.forecast import came_down_from, forecast
from paddock.decide.health import Facts, Sign, score
from paddock.decide.signs import signs
from paddock.model.agent import AgentStatus, Event
from paddock.model.errors import PaddockError
from paddock.model.fleet import FleetSpec
from paddock.model.health import Forecast, HealthPoint, ProbeFact, Score, Vitals
from paddock.model.task import TaskResult, TaskState
from paddock.ports.clock import Clock
from paddock.ports.record import Batch

log = structlog.get_logger(__name__)

ROUND_S = 5.0
SLICES = 12
"""Each agent is judged at least once in so many rounds."""
AT_ONCE = 50
"""Judged in one go, which takes a millisecond or two: nobody who asks the server waits for a whole round."""
SPAN_S = 300.0
"""One point of history for each agent and stretch of this length."""
ROWS_MAX = 1000
DEATHS_S = 600.0
TASK_WEIGHT = 0.2
"""Of the newest task in the running mean of its time."""
TASKS_FADE = 0.5
"""What is left of the counts of tasks with each point of history."""


@dataclass
class _Work:
    """How its tasks went lately."""

    done: float = 0.0
    failed: float = 0.0
    in_a_row: int = 0
    task_s: float = -1.0


@dataclass
class _Span:
    """The stretch of history that is under way."""

    low: int = 100
    high: int = 0
    sum: float = 0.0
    count: int = 0


@dataclass
class _Held:
    """All that is remembered of one agent."""

    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    work: _Work = field(default_factory=_Work)
    span: _Span = field(default_factory=_Span)
    answers: dict[str, ProbeFact] = field(default_factory=dict)
    forecasts: list[Forecast] = field(default_factory=list)
    measured: bool = False
    """Something was measured since the last look at its trends."""
    verdicts: tuple[int, frozenset[str]] = (0, frozenset())
    """Its incarnation, and which of its probes have failed."""


OnSign = Callable[[AgentStatus, Score, Sign], None]


class HealthKeeper:
    def __init__(self, archive: Archive, clock: Clock, mirror: Mirror, vitals: VitalsBook, recorder: Recorder) -> None:
        self._archive, self._clock, self._mirror, self._vitals = archive, clock, mirror, vitals
        self.scores: dict[str, Score] = {}
        self.on_score: list[Callable[[Score], None]] = []
        """Called with every score that is another than before."""
        self.on_sign: list[OnSign] = []
        """Called for every judgement in which something stands out."""
        self._held: dict[str, _Held] = {}
        self._peers: dict[str, float] = {}
        self._survived: dict[tuple[str, str], float] = {}
        """(fleet, metric) → the highest value from which one came down by itself: a garbage collector's saw teeth."""
        self._due: dict[str, None] = {}
        self._slice = 0
        self._span_at = clock.now()
        self._span_began = clock.monotonic()
        vitals.on_vitals.append(self._measured)
        mirror.on_gone.append(self._forget)
        mirror.rate = self.rate
        recorder.on_ended.append(self._task_ended)
        recorder.on_event.append(self._happened)

    async def run(self) -> None:
        """For ever: judge who is due, and write history when a stretch is over."""
        await self.round()  # nobody is left unknown for longer than it must be
        while True:
            await self._clock.sleep(ROUND_S)
            await self.round()
            if self._clock.monotonic() - self._span_began >= SPAN_S:
                await self.write()

    async def round(self) -> None:
        """Judge everybody of whom something new is known, and a slice of all others; others have their turn between."""
        due, self._due = self._due, {}
        self._slice = (self._slice + 1) % SLICES
        chosen = [
            agent
            for index, agent in enumerate(self._mirror.agents)
            if agent in due or index % SLICES == self._slice or agent not in self.scores
        ]
        for number, agent in enumerate(chosen, 1):
            if agent in self._mirror.agents:
                self._look_ahead(agent)
                self._mirror.rescore(agent)
            if number % AT_ONCE == 0:
                await self._clock.sleep(0.0)

    def rate(self, status: AgentStatus) -> int:
        """Judge an agent now; returns its score. The mirror asks for every status that it takes in."""
        wanted = self._mirror.fleets.get(status.fleet)
        if wanted is None:
            return status.health
        spec, now = wanted.spec, self._clock.now()
        vitals = self._vitals.of(status)
        facts = self._facts(status, spec, vitals, now)
        before = self.scores.get(status.id)
        judged = self.scores[status.id] = score(spec, spec.policy, status, vitals, facts, before, now)
        span = self._of(status.id).span
        span.low, span.high = min(span.low, judged.score), max(span.high, judged.score)
        span.sum, span.count = span.sum + judged.score, span.count + 1
        if before is None or before.score != judged.score:
            for told in self.on_score:
                told(judged)
        sign = signs(spec, spec.policy, status, judged, vitals, facts)
        if sign is not None:
            for tell in self.on_sign:
                tell(status, judged, sign)
        return judged.score

    def facts(self, agent: str) -> Facts:
        """What the last judgement of an agent went by, beside its vitals."""
        status = self._mirror.agents[agent]
        spec = self._mirror.fleet(status.fleet).spec
        return self._facts(status, spec, self._vitals.of(status), self._clock.now())

    def answered(self, agent: str, name: str, fact: ProbeFact) -> None:
        """A known-answer task of this agent came back, right or wrong, or did not."""
        answers = self._of(agent).answers
        before, answers[name] = answers.get(name), fact
        if before is not None and (before.fails >= before.limit) != (fact.fails >= fact.limit):
            self._mirror.rescore(agent)
        else:
            self._due[agent] = None

    async def write(self) -> None:
        """Put the stretch so far into the record, and begin another."""
        span_s = self._clock.monotonic() - self._span_began
        points = []
        for agent, held in self._held.items():
            if held.span.count:
                mean = held.span.sum / held.span.count
                points.append(
                    HealthPoint(
                        id=agent, at=self._span_at, span_s=span_s, low=held.span.low, mean=mean, high=held.span.high
                    )
                )
            held.span = _Span()
            held.work.done, held.work.failed = held.work.done * TASKS_FADE, held.work.failed * TASKS_FADE
        self._span_at, self._span_began = self._clock.now(), self._clock.monotonic()
        for start in range(0, len(points), ROWS_MAX):
            await self._put(points[start : start + ROWS_MAX])

    async def _put(self, points: Sequence[HealthPoint]) -> None:
        try:
            await self._archive.write(lambda: self._archive.record.apply(Batch(health=points)))
        except PaddockError as error:
            log.warning("points of health are lost: the record does not answer", error=error.message)

    def _facts(self, status: AgentStatus, spec: FleetSpec, vitals: Vitals | None, now: float) -> Facts:
        held = self._of(status.id)
        while held.deaths and now - held.deaths[0] > DEATHS_S:
            held.deaths.popleft()
        return Facts(
            measured_ago_s=self._vitals.age_s(status.id),
            deaths=len(held.deaths),
            tasks_done=int(held.work.done),
            tasks_failed=int(held.work.failed),
            failed_in_a_row=held.work.in_a_row,
            task_s=held.work.task_s,
            peers_s=self._peers.get(status.fleet, -1.0),
            answers=held.answers,
            forecasts=held.forecasts if vitals is not None else [],
        )

    def _look_ahead(self, agent: str) -> None:
        """Follow its trends, if something was measured since."""
        held, status = self._of(agent), self._mirror.agents[agent]
        wanted = self._mirror.fleets.get(status.fleet)
        if not held.measured or wanted is None:
            return
        held.measured = False
        scoring, limits = wanted.spec.policy.scoring, wanted.spec.limits
        series = self._vitals.series(agent)
        held.forecasts = []
        for metric, limit in (
            ("memory_bytes", float(scoring.memory_bytes_max or limits.memory_bytes)),
            ("open_files", float(limits.open_files)),
            ("latency_s", scoring.slow_s_max),
        ):
            if limit and metric in series:
                self._survived[status.fleet, metric] = survived = came_down_from(
                    series[metric], self._survived.get((status.fleet, metric), 0.0)
                )
                seen = forecast(
                    series[metric],
                    survived=survived,
                    metric=metric,
                    limit=limit,
                    now=self._clock.now(),
                    horizon_s=wanted.spec.policy.forecast.horizon_s,
                    since=status.started_at or 0.0,
                )
                held.forecasts += [seen] if seen is not None else []

    # -- what is told ----------------------------------------------------------------------------------------------

    def _measured(self, vitals: Vitals) -> None:
        held = self._of(vitals.id)
        held.measured = True
        self._due[vitals.id] = None
        failed = frozenset(name for name, fact in vitals.probes.items() if fact.fails >= fact.limit)
        if (vitals.epoch, failed) != held.verdicts:
            # Nobody waits for the next round to be healed, or to be found well.
            held.verdicts = vitals.epoch, failed
            self._mirror.rescore(vitals.id)

    def _happened(self, event: Event) -> None:
        if event.kind == "agent.died" and event.about in self._mirror.agents:
            self._of(event.about).deaths.append(event.at)
            self._due[event.about] = None

    def _task_ended(self, result: TaskResult) -> None:
        agent = result.agent if "/" in result.agent else f"{result.fleet}/{result.agent}"
        if agent not in self._mirror.agents:
            return
        work = self._of(agent).work
        if result.state is TaskState.DONE:
            work.done, work.in_a_row = work.done + 1, 0
            took_s = max(0.0, result.finished_at - (result.started_at or result.finished_at))
            work.task_s = _mean(work.task_s, took_s)
            self._peers[result.fleet] = _mean(self._peers.get(result.fleet, -1.0), took_s)
        elif result.state is TaskState.FAILED:
            work.failed, work.in_a_row = work.failed + 1, work.in_a_row + 1
        self._due[agent] = None

    def _of(self, agent: str) -> _Held:
        held = self._held.get(agent)
        if held is None:
            held = self._held[agent] = _Held()
        return held

    def _forget(self, agent: str) -> None:
        self.scores.pop(agent, None)
        self._held.pop(agent, None)
        self._due.pop(agent, None)


def _mean(before: float, value: float) -> float:
    return value if before < 0 else before + TASK_WEIGHT * (value - before)

"""What people are told of incidents, of signs that nobody heals, and of budgets that burn.

    incident changed ──worth telling──> told ──over──> told that it is over
    sign that is not healed ──> told ──score well again and no incident open, or agent gone──> told that it is over
    once a minute: objectives ──page, ticket──> told ──burns no more──> told that it is over

What is worth telling says `decide/telling.py`; who hears of it, and how often, `decide/alerting.py`. Secrets are taken
out by `control/alerts.py`. The next server tells again what is still so: within the cool-down that is
counted, not sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from paddock.decide.health import Sign
from paddock.decide.telling import Telling, keys, of_incident, of_objective, of_score, well
from paddock.model.agent import AgentStatus
from paddock.model.errors import PaddockError
from paddock.model.health import Score
from paddock.model.incident import Incident
from paddock.model.kpi import Slo
from paddock.model.notify import Alert
from paddock.ports.clock import Clock

log = structlog.get_logger(__name__)

LOOK_S = 60.0
TOLD_MAX = 20_000
"""Matters that are told and not over; beyond it the oldest is forgotten, and its end is not told."""


class Teller:
    def __init__(
        self,
        clock: Clock,
        scores: Mapping[str, Score],
        open_about: Callable[[str], Sequence[Incident]],
        burning: Callable[[], Awaitable[Sequence[Slo]]],
        tell: Callable[[Alert], None],
    ) -> None:
        """`scores`: of all agents that are there, as they are now. `open_about`: the open incidents about an agent.
        `burning`: objectives that burn too fast."""
        self._clock, self._scores, self._open_about, self._burning, self._tell = (
            clock,
            scores,
            open_about,
            burning,
            tell,
        )
        self._told: dict[str, Telling] = {}
        """Key → what was told of it, of all that is not over."""

    async def run(self) -> None:
        """For ever: once a minute see which budgets burn, and who is well again."""
        while True:
            await self._clock.sleep(LOOK_S)
            self._look_at_scores()
            try:
                await self._look_at_objectives()
            except PaddockError as error:
                log.warning("how the objectives stand is not known now", error=error.message)

    def incident_changed(self, incident: Incident) -> None:
        """For `Book.on_change`."""
        told = of_incident(incident)
        if told is not None:
            self._say(told)
        if incident.state.over:
            for key in keys(incident):
                self._over(key, incident.note or str(incident.state))

    def stands_out(self, status: AgentStatus, score: Score, sign: Sign) -> None:
        """For `HealthKeeper.on_sign`. What is healed is told as an incident, if at all."""
        if not sign.heal:
            self._say(of_score(score, sign))

    def _look_at_scores(self) -> None:
        for key in [key for key in self._told if key.startswith("score.")]:
            agent = key.removeprefix("score.")
            score = self._scores.get(agent)
            if score is None:
                self._over(key, f"{agent} is not there any more")
            elif well(score) and not self._open_about(agent):
                self._over(key, f"its score is {score.score}")

    async def _look_at_objectives(self) -> None:
        found = {told.key: told for told in map(of_objective, await self._burning())}
        for key in [key for key in self._told if key.startswith("slo.") and key not in found]:
            self._over(key, "its error budget does not burn too fast any more")
        for told in found.values():
            self._say(told)

    def _say(self, told: Telling) -> None:
        """Once, and again when it got worse: other words for the same are no news."""
        known = self._told.get(told.key)
        if known is not None and known.severity.rank >= told.severity.rank:
            return
        self._told[told.key] = told
        if len(self._told) > TOLD_MAX:
            del self._told[next(iter(self._told))]
        self._tell(told.alert(self._clock.now()))

    def _over(self, key: str, why: str) -> None:
        told = self._told.pop(key, None)
        if told is not None:
            self._tell(told.end(self._clock.now(), why))

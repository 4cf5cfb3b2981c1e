"""What it costs to judge the health of 5,000 agents, and that noise alone is never a reason to heal.

Processor time of this process, so that what else the machine does counts little. The noise is simulated and seeded.
"""

from __future__ import annotations

import random
import time

from _bench import row

from paddock.decide.forecast import came_down_from, forecast
from paddock.decide.health import Facts, Sign, score
from paddock.decide.signs import signs
from paddock.model.fleet import FleetSpec, Limits
from paddock.model.health import ProbeFact, Score, Series, Vitals
from paddock.model.policy import Policy
from paddock.testing.healing import WellAgent

AGENTS = 5_000
ROUNDS = 20
EVERY_S = 30.0
HOUR_S = 3_600.0
SPEC = FleetSpec(name="well", runtime="exec", limits=Limits(memory_bytes=200_000_000, cpus=1.0, open_files=1024))
POLICY = Policy()


def ill_vitals(name: str, at: float) -> Vitals:
    """Every component has something to say."""
    fact = ProbeFact(1, 3, "liveness", 2.0, at, "503")
    return Vitals(name, 1, at, {"http": fact}, True, 0.7, 190_000_000, 0.95, 900, 12)


ILL = Facts(deaths=1, tasks_done=50, tasks_failed=20, failed_in_a_row=3, task_s=1.0, peers_s=0.2)


def rounds(ill_share: float) -> list[float]:
    """Seconds of processor time of each round over all agents."""
    dice = random.Random(1)
    agents = [WellAgent(str(n), dice) for n in range(AGENTS)]
    ill = [n < AGENTS * ill_share for n in range(AGENTS)]
    held: list[Score | None] = [None] * AGENTS
    taken = []
    for number in range(ROUNDS):
        at = 1_000.0 + number * EVERY_S
        vitals = [ill_vitals(one.status.id, at) if ill[n] else one.vitals(at) for n, one in enumerate(agents)]
        facts = [ILL if bad else Facts(deaths=0) for bad in ill]
        before = time.process_time()
        for n, one in enumerate(agents):
            now = held[n] = score(SPEC, POLICY, one.status, vitals[n], facts[n], held[n], at)
            signs(SPEC, POLICY, one.status, now, vitals[n], facts[n])
        taken.append(time.process_time() - before)
    return taken


def cost() -> None:
    for name, share in (("noisy but well", 0.0), ("one in ten ill in every way", 0.1), ("all ill in every way", 1.0)):
        taken = sorted(rounds(share))
        middle = taken[len(taken) // 2]
        text = f"{middle * 1e3:.0f} ms a round (median of {ROUNDS}, most {taken[-1] * 1e3:.0f}), "
        row(f"score and signs of {AGENTS} agents, {name}", text + f"{middle / AGENTS * 1e6:.1f} µs an agent")


def false_heals() -> None:
    """One simulated hour: each agent is measured every EVERY_S, judged each time, and forecast each minute."""
    dice = random.Random(7)
    heal: list[Sign] = []
    alert: list[Sign] = []
    lowest, survived = 100, 0.0
    measured = [(WellAgent(str(n), dice), dice.uniform(0.0, EVERY_S)) for n in range(AGENTS)]
    for agent, offset in measured:
        held: Score | None = None
        series = Series([], [])
        facts = Facts()
        for number in range(int(HOUR_S / EVERY_S)):
            at = offset + number * EVERY_S
            vitals = agent.vitals(at)
            series.at.append(at)
            series.values.append(float(vitals.memory_bytes))
            del series.at[:-60], series.values[:-60]
            if number % 2:
                survived = came_down_from(series, survived)
                limit = float(SPEC.limits.memory_bytes)
                seen = forecast(series, metric="memory_bytes", limit=limit, now=at, horizon_s=1800.0, survived=survived)
                facts = Facts(
                    tasks_done=agent.tasks_done,
                    tasks_failed=agent.tasks_failed,
                    failed_in_a_row=agent.failed_in_a_row,
                    forecasts=[seen] if seen else [],
                )
            held = score(SPEC, POLICY, agent.status, vitals, facts, held, at)
            lowest = min(lowest, held.score)
            sign = signs(SPEC, POLICY, agent.status, held, vitals, facts)
            if sign is not None:
                (heal if sign.heal else alert).append(sign)
    row(f"1 h of noise, {AGENTS} agents: signs to heal (wanted: 0)", str(len(heal)))
    row(f"1 h of noise, {AGENTS} agents: signs to tell of", f"{len(alert)} {sorted({str(s.cause) for s in alert})}")
    row("the lowest score in that hour", str(lowest))


def main() -> None:
    cost()
    false_heals()


if __name__ == "__main__":
    main()

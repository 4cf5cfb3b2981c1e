"""Healing steps that a mixed load of faults needs: the ladder as the policy orders it, against the learned order.

Simulated and seeded: the figures are the same on every machine.
"""

from __future__ import annotations

import msgspec
from _bench import row

from paddock.model.incident import IncidentState, Outcome
from paddock.testing.healing import MIXED, Healed, heal_mixed

INCIDENTS = 200
SEEDS = range(20)


def taken(healed: list[Healed]) -> int:
    return sum(1 for one in healed for step in one.steps if step.outcome is not Outcome.SKIPPED)


def ended(healed: list[Healed]) -> int:
    return sum(1 for one in healed if one.state is IncidentState.RECOVERED)


def main() -> None:
    fixed_policy = msgspec.structs.replace(MIXED, learn=False)
    shares, fixed_steps, learned_steps, fixed_well, learned_well = [], 0, 0, 0, 0
    fixed_s = learned_s = 0.0
    for seed in SEEDS:
        fixed = heal_mixed(fixed_policy, INCIDENTS, seed=seed)
        learned = heal_mixed(MIXED, INCIDENTS, seed=seed)
        shares.append(1 - taken(learned) / taken(fixed))
        fixed_steps, learned_steps = fixed_steps + taken(fixed), learned_steps + taken(learned)
        fixed_well, learned_well = fixed_well + ended(fixed), learned_well + ended(learned)
        fixed_s += sum(one.took_s for one in fixed)
        learned_s += sum(one.took_s for one in learned)
    count = INCIDENTS * len(SEEDS)
    row(f"incidents ({len(SEEDS)} runs of {INCIDENTS}, each begins without experience)", f"{count}")
    row("steps, fixed ladder", f"{fixed_steps} ({fixed_steps / count:.2f} an incident)")
    row("steps, learned order", f"{learned_steps} ({learned_steps / count:.2f} an incident)")
    fewer = f"{1 - learned_steps / fixed_steps:.0%} (worst run {min(shares):.0%}, best {max(shares):.0%})"
    row("fewer steps (wanted: at least 30 %)", fewer)
    row("recovered, fixed / learned (the others were escalated)", f"{fixed_well} / {learned_well}")
    row("simulated time to an end, fixed / learned", f"{fixed_s / count:.1f} s / {learned_s / count:.1f} s")


if __name__ == "__main__":
    main()

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.restart import Again, Quarantine, Rest, after_death, backoff_s, describe
from paddock.model.agent import Exit
from paddock.model.fleet import Restart

CRASH = Exit(code=1)
times = st.lists(st.floats(0, 1000), min_size=1, max_size=40).map(sorted)
dice = st.floats(0, 1)
policies = st.builds(
    Restart,
    max=st.integers(0, 20),
    window_s=st.floats(1, 500),
    backoff_s_min=st.floats(0.01, 5),
    backoff_s_max=st.floats(5, 100),
    quarantine_s=st.just(0.0) | st.floats(0.1, 1000),
)


def decide(policy: Restart, deaths: list[float], *, stable: bool = False, exit: Exit = CRASH, dice: float = 0.5):  # type: ignore[no-untyped-def]
    return after_death(policy, deaths, deaths[-1], was_stable=stable, exit=exit, dice=dice)


def test_the_first_restart_is_immediate_and_the_next_ones_back_off() -> None:
    policy = Restart(backoff_s_min=0.1, backoff_s_max=1.0)
    delays = [decide(policy, [float(n) / 100 for n in range(count)]).delay_s for count in range(1, 8)]
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_after_a_stable_life_the_back_off_starts_anew() -> None:
    assert decide(Restart(), [1.0, 2.0, 3.0, 4.0], stable=True) == Again(delay_s=0.0)


def test_one_more_than_max_within_the_window_is_a_crash_loop() -> None:
    policy = Restart(max=3, window_s=10, quarantine_s=60)
    assert isinstance(decide(policy, [1.0, 2.0, 3.0]), Again)
    found = decide(policy, [1.0, 2.0, 3.0, 4.0])
    assert found == Quarantine(until=64.0, reason="crash loop: 4 deaths in 10 s, last: exit code 1")
    assert isinstance(decide(policy, [1.0, 2.0, 3.0, 13.5]), Again)


def test_deaths_after_a_stable_life_count_to_intensity_too() -> None:
    policy = Restart(max=2, window_s=100)
    assert isinstance(decide(policy, [0.0, 30.0, 60.0], stable=True), Quarantine)


def test_a_quarantine_without_end_waits_for_a_person() -> None:
    assert decide(Restart(max=0, quarantine_s=0), [1.0]).until == math.inf


def test_modes() -> None:
    assert isinstance(decide(Restart(mode="never"), [1.0]), Rest)
    assert isinstance(decide(Restart(mode="on-failure"), [1.0], exit=Exit(code=0)), Rest)
    assert isinstance(decide(Restart(mode="on-failure"), [1.0]), Again)
    assert isinstance(decide(Restart(mode="on-failure"), [1.0], exit=Exit()), Again)
    assert isinstance(decide(Restart(mode="always"), [1.0], exit=Exit(code=0)), Again)


def test_how_it_ended_is_told_in_words() -> None:
    assert describe(Exit(code=3)) == "exit code 3"
    assert describe(Exit(signal=9)) == "killed by SIGKILL"
    assert describe(Exit(signal=9, oom=True)) == "killed by the kernel: out of memory"
    assert describe(Exit(signal=200)) == "killed by signal 200"
    assert describe(Exit()) == "ended, exit status unknown"


@given(policies, times, st.booleans(), dice)
def test_a_delay_is_none_or_between_min_and_max(
    policy: Restart, deaths: list[float], stable: bool, dice: float
) -> None:
    found = decide(policy, deaths, stable=stable, dice=dice)
    if isinstance(found, Again):
        assert found.delay_s == 0 or policy.backoff_s_min <= found.delay_s <= policy.backoff_s_max


@given(policies, times, dice)
def test_no_window_ever_holds_more_restarts_than_max(policy: Restart, deaths: list[float], dice: float) -> None:
    """Walk through the deaths as they come: what was restarted within any window is never more than `max`."""
    restarted = [
        at for index, at in enumerate(deaths) if isinstance(decide(policy, deaths[: index + 1], dice=dice), Again)
    ]
    for at in restarted:
        assert sum(1 for other in restarted if 0 <= at - other <= policy.window_s) <= policy.max


@given(policies, times, st.booleans(), dice)
def test_a_quarantine_ends_after_now(policy: Restart, deaths: list[float], stable: bool, dice: float) -> None:
    found = decide(policy, deaths, stable=stable, dice=dice)
    if isinstance(found, Quarantine):
        assert found.until > deaths[-1]


@given(policies, st.integers(1, 10_000), dice, dice)
def test_the_back_off_grows_with_the_streak_whatever_the_dice(
    policy: Restart, streak: int, low: float, high: float
) -> None:
    assert backoff_s(policy, streak, min(low, high)) <= backoff_s(policy, streak, max(low, high))
    assert backoff_s(policy, streak, low) <= backoff_s(policy, streak + 2, low)

"""Which fleet a task goes to, and which lane an agent looks into first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.lanes import TURNS, lane_order
from paddock.decide.route import Candidate, choose_fleet


def fleet(name: str, ready: int, queued: int, *capabilities: str) -> Candidate:
    return Candidate(name, capabilities or ("review",), ready, queued)


def test_nobody_with_the_capability_is_nobody() -> None:
    assert choose_fleet("review", []) is None
    assert choose_fleet("review", [fleet("a", 3, 0, "design")]) is None


def test_the_least_queued_per_ready_agent_wins() -> None:
    assert choose_fleet("review", [fleet("a", 1, 5), fleet("b", 10, 20), fleet("c", 5, 0, "design")]) == "b"


def test_a_fleet_with_nobody_ready_is_the_last_choice() -> None:
    assert choose_fleet("review", [fleet("a", 0, 0), fleet("b", 1, 1000)]) == "b"
    assert choose_fleet("review", [fleet("a", 0, 7), fleet("b", 0, 2)]) == "b"


def test_equals_go_to_more_ready_agents_and_then_by_name() -> None:
    assert choose_fleet("review", [fleet("a", 1, 0), fleet("b", 3, 0)]) == "b"
    assert choose_fleet("review", [fleet("b", 2, 4), fleet("a", 2, 4)]) == "a"


candidates = st.lists(
    st.builds(fleet, st.sampled_from("abcdef"), st.integers(0, 5), st.integers(0, 9), st.sampled_from(["review", "x"])),
    unique_by=lambda one: one.name,
)


@given(candidates)
def test_the_order_of_the_fleets_does_not_matter(fleets: list[Candidate]) -> None:
    chosen = choose_fleet("review", fleets)
    assert chosen == choose_fleet("review", fleets[::-1])
    assert (chosen is None) == (not any("review" in one.capabilities for one in fleets))


@given(st.integers(0, 10**9))
def test_every_look_covers_all_lanes(turn: int) -> None:
    assert sorted(lane_order(turn)) == [0, 1, 2, 3]


@given(st.integers(0, 10**9))
def test_in_any_sixteen_looks_in_a_row_every_lane_goes_first_and_critical_mostly(start: int) -> None:
    first = [lane_order(turn)[0] for turn in range(start, start + TURNS)]
    assert set(first) == {0, 1, 2, 3}
    assert first.count(0) >= 12


@given(st.integers(0, 10**9))
def test_what_is_not_favoured_keeps_its_order(turn: int) -> None:
    rest = lane_order(turn)[1:]
    assert list(rest) == sorted(rest)


@given(st.integers(0, 10**9))
def test_critical_waits_for_one_favour_at_the_most(turn: int) -> None:
    assert 0 in (lane_order(turn)[0], lane_order(turn + 1)[0])


def test_the_first_look_of_an_agent_is_by_priority() -> None:
    assert lane_order(0) == (0, 1, 2, 3)

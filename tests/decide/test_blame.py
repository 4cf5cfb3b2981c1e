from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.blame import PARDONS_MAX, Death, counting, to_blame
from paddock.model.fleet import Restart

POLICY = Restart(window_s=60)


def death(at: float, *tasks: str, was_stable: bool = False) -> Death:
    return Death(at, frozenset(tasks), was_stable)


def test_a_task_held_at_one_death_is_not_to_blame() -> None:
    assert to_blame(POLICY, [death(1, "T"), death(2, "U"), death(3)], 3) == frozenset()


def test_a_task_held_at_two_deaths_is_to_blame_for_both() -> None:
    blamed = to_blame(POLICY, [death(1, "T"), death(2, "T", "U")], 2)
    assert blamed == {"T"}
    assert counting([death(1, "T"), death(1.5), death(2, "T", "U")], blamed) == ([1.5], 1)


def test_deaths_long_ago_blame_nobody() -> None:
    assert to_blame(POLICY, [death(1, "T"), death(100, "T")], 100) == frozenset()


def test_when_very_many_seem_to_be_to_blame_it_is_the_agents() -> None:
    few = [death(1, str(number)) for number in range(PARDONS_MAX // 2)] * 2
    assert len(to_blame(POLICY, few, 1)) == PARDONS_MAX // 2
    assert to_blame(POLICY, [*few, death(1, "one more"), death(1, "one more")], 1) == frozenset()


def test_one_death_with_many_tasks_in_hand_is_one_death() -> None:
    many = tuple(str(number) for number in range(500))
    assert len(to_blame(POLICY, [death(1, *many), death(2, *many)], 2)) == len(many)


def test_a_row_of_deaths_begins_with_the_last_stable_life() -> None:
    deaths = [death(1), death(2, was_stable=True), death(3), death(4, "T"), death(5)]
    assert counting(deaths, frozenset()) == ([1, 2, 3, 4, 5], 4)
    assert counting(deaths, frozenset({"T"})) == ([1, 2, 3, 5], 3)
    assert counting([], frozenset()) == ([], 0)


@given(st.lists(st.builds(Death, st.floats(0, 100), st.frozensets(st.sampled_from("ABCDE")), st.booleans())))
def test_blame_only_takes_deaths_away(deaths: list[Death]) -> None:
    blamed = to_blame(POLICY, deaths, 100)
    times, streak = counting(deaths, blamed)
    assert len(times) == sum(not each.tasks & blamed for each in deaths)
    assert 0 <= streak <= len(times)
    assert counting(deaths, frozenset())[0] == [each.at for each in deaths]

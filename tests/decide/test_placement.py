"""Placement: every agent once, nothing moves without need, an even spread, and the same answer every time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.place import place
from paddock.model.agent import NodeStatus


def node(name: str, agents: int = 0) -> NodeStatus:
    return NodeStatus(id=name, host=name, pid=1, started_at=0.0, seen_at=0.0, agents=agents)


def nodes(count: int) -> list[NodeStatus]:
    return [node(f"n{index:03}") for index in range(count)]


def test_agents_are_spread_evenly() -> None:
    assert place(["0", "1", "2", "3", "4"], nodes(2), {}) == {"n000": ["0", "2", "4"], "n001": ["1", "3"]}


def test_without_nodes_nothing_is_placed() -> None:
    assert place(["0"], [], {"gone": ["0"]}) == {}


def test_a_node_without_work_is_told_so() -> None:
    assert place(["0"], nodes(2), {}) == {"n000": ["0"], "n001": []}


def test_a_new_node_gets_only_what_is_new() -> None:
    current = {"n000": ["0", "1", "2"]}
    assert place(["0", "1", "2", "3"], nodes(2), current) == {"n000": ["0", "1", "2"], "n001": ["3"]}


def test_agents_of_a_lost_node_go_where_the_fewest_are() -> None:
    current = {"n000": ["0"], "n001": ["1", "2", "5"], "lost": ["3", "4"]}
    placed = place(["0", "1", "2", "3", "4", "5"], nodes(2), current)
    assert placed == {"n000": ["0", "3", "4"], "n001": ["1", "2", "5"]}


def test_names_that_are_no_longer_wanted_are_dropped() -> None:
    assert place(["1"], nodes(1), {"n000": ["0", "1"]}) == {"n000": ["1"]}


def test_equals_are_decided_by_the_load_of_all_fleets() -> None:
    busy = [node("a", agents=9), node("b", agents=1)]
    assert place(["0"], busy, {}) == {"a": [], "b": ["0"]}
    assert place(["0"], busy, {}, load={"a": 0, "b": 5}) == {"a": ["0"], "b": []}


def test_a_name_on_two_nodes_stays_on_one() -> None:
    assert place(["0"], nodes(2), {"n001": ["0"], "n000": ["0"]}) == {"n000": ["0"], "n001": []}


def test_five_thousand_agents_on_a_hundred_nodes_survive_the_loss_of_one() -> None:
    names = [str(index) for index in range(5000)]
    before = place(names, nodes(100), {})
    after = place(names, nodes(99), before)
    assert {len(placed) for placed in before.values()} == {50}
    assert {len(placed) for placed in after.values()} == {50, 51}
    assert all(set(before[name]) <= set(after[name]) for name in after)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[str], list[NodeStatus], dict[str, list[str]]]:
    names = draw(st.lists(st.integers(0, 40).map(str), unique=True, max_size=40))
    count = draw(st.integers(1, 6))
    current: dict[str, list[str]] = {}
    for name in range(45):
        where = draw(st.integers(-1, 7))
        if where >= 0:
            current.setdefault(f"n{where:03}", []).append(str(name))
    return names, nodes(count), current


@given(worlds())
def test_each_name_stands_exactly_once(world: tuple[list[str], list[NodeStatus], dict[str, list[str]]]) -> None:
    names, live, current = world
    placed = place(names, live, current)
    assert sorted(name for group in placed.values() for name in group) == sorted(names)
    assert list(placed) == [one.id for one in live]


@given(worlds())
def test_nothing_moves_without_need(world: tuple[list[str], list[NodeStatus], dict[str, list[str]]]) -> None:
    names, live, current = world
    placed = place(names, live, current)
    for one in live:
        assert set(names).intersection(current.get(one.id, [])) <= set(placed[one.id])
    assert place(names, live, placed) == placed


@given(worlds())
def test_what_is_placed_anew_goes_to_the_emptiest(
    world: tuple[list[str], list[NodeStatus], dict[str, list[str]]],
) -> None:
    names, live, current = world
    placed = place(names, live, current)
    least = min(len(group) for group in placed.values())
    for one in live:
        added = set(placed[one.id]) - set(current.get(one.id, []))
        assert not added or len(placed[one.id]) <= least + 1


@given(worlds(), st.randoms())
def test_the_order_in_which_nodes_are_listed_does_not_matter(
    world: tuple[list[str], list[NodeStatus], dict[str, list[str]]], random: object
) -> None:
    names, live, current = world
    assert place(names, live[::-1], dict(reversed(current.items()))) == place(names, live, current)

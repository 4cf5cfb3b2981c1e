"""What is done about the machine, in order; and whether an answer is the known one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.competence import RULES, wrong
from paddock.decide.infra import LOOKS, RUNGS, Finding, Streak, next_action, seen, under_way
from paddock.model.incident import Incident, Outcome, StepTaken
from paddock.model.policy import OF_THE_MACHINE, Action, Cause


def incident(*steps: tuple[Action, Outcome]) -> Incident:
    return Incident(
        id=1,
        key="infra.memory.1",
        about="memory",
        cause=Cause.RESOURCES,
        signature="infrastructure: memory",
        title="memory is full",
        sign_at=0.0,
        opened_at=0.0,
        steps=[
            StepTaken(number=number, action=action, why="", outcome=outcome)
            for number, (action, outcome) in enumerate(steps, 1)
        ],
    )


@given(st.lists(st.booleans(), max_size=30))
def test_a_part_is_ill_or_well_after_so_many_looks_in_a_row(looks: list[bool]) -> None:
    streak = Streak()
    for bad in looks:
        streak = seen(streak, Finding(part="cpu", bad=bad, text=""))
    last = looks[-LOOKS:]
    assert streak.ill == (len(last) == LOOKS and all(last))
    assert streak.well == (len(last) == LOOKS and not any(last))


def test_rungs_are_climbed_once_each_and_then_people_are_told() -> None:
    assert next_action("memory", incident()) is Action.DROP_CACHES
    tried = incident((Action.DROP_CACHES, Outcome.FAILED))
    assert next_action("memory", tried) is Action.SHED_LOAD
    both = incident((Action.DROP_CACHES, Outcome.NO_BETTER), (Action.SHED_LOAD, Outcome.PENDING))
    assert next_action("memory", both) is None
    assert (under_way(tried), under_way(both)) == (False, True)
    assert next_action("clock", incident()) is None


def test_rungs_are_of_the_machine_alone() -> None:
    assert {action for rungs in RUNGS.values() for action in rungs} <= OF_THE_MACHINE


@pytest.mark.parametrize(
    ("rule", "right", "not_right"),
    [
        ({"equals": 42}, [42, 42.0], [43, "42", True, None, [42]]),
        ({"equals": True}, [True], [1, "true", False]),
        ({"equals": None}, [None], [0, "", False]),
        ({"equals": {"a": [1]}}, [{"a": [1]}], [{"a": [2]}, {}]),
        ({"contains": "sum"}, ["the sum is 4", {"sum": 4}, ["sum"]], ["product", 4, None]),
        ({"contains": '"ok":true'}, [{"ok": True}], [{"ok": False}]),
        ({"matches": r"^v\d+$"}, ["v17"], ["v", "17", "xv17"]),
        ({"within": [3.14, 0.01]}, [3.14, 3.15, 3.13], [3.2, "3.14", True, None, float("nan")]),
        ({}, [None, 1, "anything"], []),
    ],
)
def test_answers_are_judged_by_their_rule(rule: dict[str, Any], right: list[Any], not_right: list[Any]) -> None:
    for answer in right:
        assert wrong(rule, answer) == "", answer
    for answer in not_right:
        assert wrong(rule, answer).startswith("its answer is wrong"), answer


def test_no_pattern_takes_long_on_a_hostile_answer() -> None:
    """Were it Python's own engine, this would not end before the universe does."""
    assert wrong({"matches": "(a+)+$"}, "a" * 9_000 + "b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(RULES), JSON)
def test_whatever_an_agent_answers_is_judged_and_not_repeated(rule: str, answer: Any) -> None:
    wanted = {"equals": 42, "contains": "secret", "matches": "secret", "within": [42, 0]}[rule]
    told = wrong({rule: wanted}, answer)
    assert told in ("", f"its answer is wrong: it is not what '{rule}' asks for")


@given(JSON)
def test_what_is_equal_is_right(answer: Any) -> None:
    assert wrong({"equals": answer}, answer) == ""

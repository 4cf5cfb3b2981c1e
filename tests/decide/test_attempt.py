from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.attempt import BACKOFF_S_MAX, DEATHS_MAX, LAST_CHANCES, after_error, backoff, before_run
from paddock.model.task import Task


def a_task(**fields: object) -> Task:
    return Task(id="t", fleet="f", method="m", **fields)  # type: ignore[arg-type]


def test_the_first_hand_out_runs() -> None:
    start = before_run(a_task(), delivered=1, deaths=0, retries=0)
    assert (start.attempts, start.give_up) == (1, "")


def test_attempts_of_an_earlier_message_count() -> None:
    assert before_run(a_task(attempts_before=2), delivered=1, deaths=0, retries=5).attempts == 3


@pytest.mark.parametrize("retries", [0, 2, 9])
def test_three_deaths_that_the_node_saw_end_a_task_and_the_last_was_alone(retries: int) -> None:
    starts = [before_run(a_task(), delivered=n + 1, deaths=n, retries=retries) for n in range(5)]
    assert [bool(start.give_up) for start in starts] == [False] * 3 + [True] * 2
    assert [start.alone for start in starts[:3]] == [False, False, True]


def test_deaths_that_the_fabric_forgot_count() -> None:
    start = before_run(a_task(), delivered=1, deaths=3, retries=0)
    assert (start.attempts, bool(start.give_up)) == (4, True)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_hand_outs_of_which_no_death_is_known_are_in_company_as_far_as_errors_explain_them_then_alone(
    retries: int, max_attempts: int, attempts_before: int
) -> None:
    task = a_task(max_attempts=max_attempts, attempts_before=attempts_before)
    starts = [before_run(task, delivered=n, deaths=0, retries=retries) for n in range(1, 20)]
    in_company = max(DEATHS_MAX - 1, max_attempts or retries + 1)
    for start in starts:
        assert start.alone == (in_company < start.attempts <= in_company + LAST_CHANCES)
        assert bool(start.give_up) == (start.attempts > in_company + LAST_CHANCES)


@given(st.integers(1, 9))
def test_what_only_fails_is_never_tried_alone_by_its_retries(retries: int) -> None:
    """Nobody waits for others because code raised: errors end a task before its last chance."""
    starts = [before_run(a_task(), delivered=n, deaths=0, retries=retries) for n in range(1, retries + 2)]
    assert not any(start.alone for start in starts)
    last = after_error(a_task(), attempts=retries + 1, retries=retries, backoff_s=1, asked=False, dice=0)
    assert last.action == "dead"


def test_giving_up_says_that_the_agent_died_and_how_often() -> None:
    start = before_run(a_task(), delivered=4, deaths=3, retries=0)
    assert "died" in start.give_up
    assert "3 times" in start.give_up


def test_a_task_that_may_not_run_twice_is_given_up_at_its_second_hand_out() -> None:
    start = before_run(a_task(repeatable=False), delivered=2, deaths=0, retries=9)
    assert "may not run twice" in start.give_up
    assert "once" in start.give_up


def test_an_error_without_retries_fails_the_task() -> None:
    following = after_error(a_task(), attempts=1, retries=0, backoff_s=1, asked=False, dice=0.5)
    assert following.action == "failed"


def test_an_error_with_retries_left_is_tried_again_later() -> None:
    following = after_error(a_task(), attempts=2, retries=2, backoff_s=1, asked=False, dice=0.5)
    assert (following.action, following.delay_s) == ("again", 2.0)


def test_an_error_at_the_last_attempt_is_dead_with_its_reason() -> None:
    following = after_error(a_task(), attempts=3, retries=2, backoff_s=1, asked=False, dice=0.5)
    assert (following.action, following.reason) == ("dead", "all 3 attempts are used up")


def test_max_attempts_of_the_task_goes_before_the_retries_of_the_method() -> None:
    assert after_error(a_task(max_attempts=2), attempts=2, retries=9, backoff_s=1, asked=False, dice=0).action == "dead"
    assert (
        after_error(a_task(max_attempts=2), attempts=1, retries=0, backoff_s=1, asked=False, dice=0).action == "again"
    )


def test_a_retry_that_was_asked_for_needs_no_retries_of_the_method() -> None:
    actions = [
        after_error(a_task(), attempts=n, retries=0, backoff_s=1, asked=True, dice=0).action
        for n in range(1, DEATHS_MAX + 1)
    ]
    assert actions == ["again"] * (DEATHS_MAX - 1) + ["dead"]


@pytest.mark.parametrize(("asked", "action"), [(False, "failed"), (True, "dead")])
def test_a_task_that_may_not_run_twice_is_not_retried(asked: bool, action: str) -> None:
    following = after_error(a_task(repeatable=False), attempts=1, retries=5, backoff_s=1, asked=asked, dice=0)
    assert following.action == action


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_a_back_off_is_never_negative_nor_beyond_its_limit(attempts: int, base_s: float, dice: float) -> None:
    assert 0 <= backoff(attempts, backoff_s=base_s, dice=dice) <= 1.5 * BACKOFF_S_MAX


@given(st.integers(1, 50), st.integers(0, 20), st.integers(0, 20), st.booleans(), st.booleans())
def test_a_task_is_never_retried_past_its_limits(
    attempts: int, retries: int, most: int, repeatable: bool, asked: bool
) -> None:
    task = a_task(max_attempts=most, repeatable=repeatable)
    following = after_error(task, attempts=attempts, retries=retries, backoff_s=1, asked=asked, dice=0.5)
    if following.action == "again":
        # What is put back must be run again, not given up unseen.
        assert not before_run(task, delivered=attempts + 1, deaths=0, retries=retries).give_up

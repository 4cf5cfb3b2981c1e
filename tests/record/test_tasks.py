"""What the record says of tasks, on both databases."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paddock.model.errors import Refused
from paddock.model.task import PAYLOAD_BYTES_MAX, Priority, TaskFailure, TaskState
from paddock.ports.record import Batch, Record
from paddock.record import sql

from .facts import result, running, task

WEEK_S = 604_800.0


def ids(record: Record, **filters: Any) -> list[str]:
    return [view.id for view in record.tasks(**filters).items]


def test_a_queued_task_is_seen_as_it_was_asked_for(record: Record) -> None:
    asked = task(args={"source": "x = 1\0"}, priority=Priority.HIGH, not_before=200.5, submitted_by="ann")

    record.apply(Batch(queued=[asked]))

    view = record.task("t1")
    assert view is not None
    assert (view.fleet, view.method, view.state) == ("critic", "review", TaskState.QUEUED)
    assert view.args == {"source": "x = 1\0"}
    assert (view.priority, view.not_before, view.submitted_by) == ("HIGH", 200.5, "ann")
    assert (view.agent, view.result, view.error) == (None, None, None)
    assert (view.started_at, view.finished_at, view.kept_until) == (None, None, None)


def test_a_task_that_may_start_at_once_has_no_not_before(record: Record) -> None:
    record.apply(Batch(queued=[task()]))

    assert record.task("t1").not_before is None  # type: ignore[union-attr]


def test_a_task_goes_from_queued_over_running_to_done(record: Record) -> None:
    record.apply(Batch(queued=[task(args={"source": "x"})]))
    record.apply(Batch(running=[running(attempt=2, at=101.5)]))

    view = record.task("t1")
    assert view is not None
    assert (view.state, view.agent, view.attempts, view.started_at) == ("running", "critic/0", 2, 101.5)
    assert view.args == {"source": "x"}

    record.apply(Batch(results=[result(result={"findings": []}, attempts=2, agent="critic/1")]))

    view = record.task("t1")
    assert view is not None
    assert (view.state, view.agent, view.attempts) == ("done", "critic/1", 2)
    assert view.result == {"findings": []}
    assert (view.started_at, view.finished_at, view.kept_until) == (101.0, 102.0, 162.0)


def test_a_failure_keeps_its_reason(record: Record) -> None:
    why = TaskFailure(code="value-error", message="not Python", where="critic.py:7")

    record.apply(Batch(results=[result(state=TaskState.FAILED, error=why)]))

    assert record.task("t1").error == why  # type: ignore[union-attr]


def test_a_task_never_goes_back(record: Record) -> None:
    record.apply(Batch(running=[running()]))
    record.apply(Batch(queued=[task()]))
    assert record.task("t1").state == "running"  # type: ignore[union-attr]

    record.apply(Batch(results=[result()]))
    record.apply(Batch(queued=[task()], running=[running(at=500.0, agent="critic/9")]))
    view = record.task("t1")
    assert view is not None
    assert (view.state, view.agent) == ("done", "critic/0")


@pytest.mark.parametrize("together", [True, False])
def test_the_first_end_wins(record: Record, together: bool) -> None:
    first, second = result(result=1), result(state=TaskState.DEAD, result=2, finished_at=101.5)

    for batch in [[first, second]] if together else [[first], [second]]:
        record.apply(Batch(results=batch))

    view = record.task("t1")
    assert view is not None
    assert (view.state, view.result) == ("done", 1)


def test_a_result_needs_no_queued_row_and_lets_a_late_one_complete_it(record: Record) -> None:
    record.apply(Batch(results=[result(args={"a": 1}, submitted_by="")]))
    assert record.task("t1").args == {"a": 1}  # type: ignore[union-attr]

    record.apply(Batch(queued=[task(args={"a": 1}, submitted_by="ann", priority=Priority.LOW)]))

    view = record.task("t1")
    assert view is not None
    assert (view.state, view.submitted_by, view.priority) == ("done", "ann", "LOW")


def test_a_running_note_alone_makes_a_row_that_the_task_completes(record: Record) -> None:
    record.apply(Batch(running=[running(at=101.0)]))
    assert ids(record) == ["t1"]

    record.apply(Batch(queued=[task()]))

    view = record.task("t1")
    assert view is not None
    assert (view.state, view.method, view.submitted_at, view.agent) == ("running", "review", 100.0, "critic/0")


def test_of_several_holders_the_latest_is_shown(record: Record) -> None:
    record.apply(Batch(running=[running(agent="critic/2", attempt=2, at=110.0)]))
    record.apply(Batch(running=[running(agent="critic/1", attempt=1, at=101.0)]))

    view = record.task("t1")
    assert view is not None
    assert (view.agent, view.attempts, view.started_at) == ("critic/2", 2, 110.0)


def test_a_result_that_has_not_ended_is_recorded_as_a_failure(record: Record) -> None:
    record.apply(Batch(results=[result(state=TaskState.RUNNING)]))

    view = record.task("t1")
    assert view is not None
    assert view.state == "failed"
    assert view.error is not None
    assert view.error.code == "bad-result"


def test_what_a_careless_agent_writes_does_not_stop_the_record(record: Record) -> None:
    odd = result(attempts=10**30, epoch=-(10**30), priority=77, agent="critic/" + "ä" * 5000, result=10**30)

    record.apply(Batch(results=[odd], queued=[task("t2", method="re\0view\udc80", submitted_by="\0")]))

    view = record.task("t1")
    assert view is not None
    assert (view.state, view.priority, view.result) == ("done", "LOW", 10**30)
    assert record.task("t2").method == "re�view?"  # type: ignore[union-attr]


def test_a_task_that_nobody_recorded_is_none(record: Record) -> None:
    assert record.task("nothing") is None


def test_tasks_are_listed_newest_first_and_filtered(record: Record) -> None:
    record.apply(
        Batch(
            queued=[task(f"t{i}", submitted_at=float(i), fleet="critic" if i % 2 else "coder") for i in range(6)],
            running=[running("t4", "coder/0")],
            results=[result("t5", submitted_at=5.0), result("t3", submitted_at=3.0, agent="critic/1")],
        )
    )

    assert ids(record) == ["t5", "t4", "t3", "t2", "t1", "t0"]
    assert ids(record, fleet="coder") == ["t4", "t2", "t0"]
    assert ids(record, state="done") == ["t5", "t3"]
    assert ids(record, fleet="critic", state="queued") == ["t1"]
    assert ids(record, agent="critic/1") == ["t3"]
    assert ids(record, fleet="none") == []
    assert record.counts() == {
        ("critic", "done"): 2,
        ("critic", "queued"): 1,
        ("coder", "queued"): 2,
        ("coder", "running"): 1,
    }


def test_pages_give_every_task_once_even_when_all_came_in_the_same_instant(record: Record) -> None:
    record.apply(Batch(queued=[task(f"t{i:02}", submitted_at=1790000000.1234567) for i in range(25)]))

    pages, after = [], ""
    while True:
        page = record.tasks(after=after, limit=10)
        pages.append([view.id for view in page.items])
        if page.next is None:
            break
        after = page.next
        # What is submitted meanwhile is newer than this page; the pages to come do not shift.
        record.apply(Batch(queued=[task(f"new{len(pages)}", submitted_at=1790000001.0)]))

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [task_id for page in pages for task_id in page] == [f"t{i:02}" for i in reversed(range(25))]


def test_a_page_of_large_results_ends_early_and_goes_on(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "PAGE_BYTES_MAX", 2 * PAYLOAD_BYTES_MAX)
    large = "x" * (PAYLOAD_BYTES_MAX - 1000)
    record.apply(Batch(results=[result(f"t{i}", result=large) for i in range(5)]))

    first = record.tasks()
    assert first.next is not None
    second = record.tasks(after=first.next)

    assert [view.id for view in first.items] == ["t4", "t3", "t2"]
    assert [view.id for view in second.items] == ["t1", "t0"]
    assert second.next is None
    assert second.items[0].result == large


@pytest.mark.parametrize("limit", [0, -5, 10**9])
def test_a_limit_out_of_range_is_brought_into_it(record: Record, limit: int) -> None:
    record.apply(Batch(queued=[task()]))

    assert len(record.tasks(limit=limit).items) == 1


@pytest.mark.parametrize("cursor", ["nonsense", "ä", "WyJ0IixbMV1d", "bnVsbA", "WyJ0IixbMWU5OTksICJhIl1d"])
def test_a_cursor_that_is_not_ours_is_refused(record: Record, cursor: str) -> None:
    with pytest.raises(Refused, match="start without one"):
        record.tasks(after=cursor)
    with pytest.raises(Refused, match="start without one"):
        record.events(after=cursor)


def test_forget_deletes_what_was_kept_long_enough_oldest_first(record: Record) -> None:
    record.apply(
        Batch(
            queued=[task("waits")],
            running=[running("runs")],
            results=[result(f"t{i}", finished_at=float(i), kept_s=10.0) for i in range(1, 6)],
        )
    )

    assert record.forget(10.9) == 0
    assert record.forget(13.0, limit=2) == 2
    assert sorted(ids(record)) == ["runs", "t3", "t4", "t5", "waits"]
    assert record.forget(13.0) == 1
    assert record.forget(1e12) == 2
    assert sorted(ids(record)) == ["runs", "waits"]


def test_a_result_without_its_end_is_kept_from_the_time_that_is_known(record: Record) -> None:
    record.apply(Batch(results=[result(finished_at=0.0)]))

    assert record.task("t1").kept_until == 161.0  # type: ignore[union-attr]


def test_every_view_survives_its_way_through_json(record: Record) -> None:
    record.apply(Batch(queued=[task()], results=[result("t2", result=[1.5, None, "ü"])]))

    for view in record.tasks().items:
        assert msgspec.json.decode(msgspec.json.encode(view), type=type(view)) == view


def test_for_whom_and_how_long_comes_from_the_task_and_from_its_result_alike(record: Record) -> None:
    record.apply(Batch(queued=[task("a", agent="1", kept_s=5.0), task("b")], results=[result("c", to_agent="0")]))
    record.apply(Batch(results=[result("a", to_agent="1", kept_s=5.0)], running=[running("d")]))

    told = {view.id: (view.to_agent, view.kept_s) for view in record.tasks().items}
    assert told == {"a": ("critic/1", 5.0), "b": ("", WEEK_S), "c": ("critic/0", 60.0), "d": ("", WEEK_S)}


def test_unfinished_tasks_are_given_oldest_first_page_by_page(record: Record) -> None:
    record.apply(Batch(queued=[task(f"t{i}", submitted_at=float(i)) for i in (5, 1, 3, 2, 4)]))
    record.apply(Batch(running=[running("t2", at=6.0)], results=[result("t3", submitted_at=3.0)]))

    first = record.unfinished("queued", 5.0, limit=1)
    assert first.next is not None
    second = record.unfinished("queued", 5.0, after=first.next)

    assert [view.id for page in (first, second) for view in page.items] == ["t1", "t4"]
    assert second.next is None
    assert [view.id for view in record.unfinished("running", 5.0).items] == ["t2"]
    with pytest.raises(Refused, match="is not one that this list gave out"):
        record.tasks(after=first.next)

"""Events, agents, cursors, and whole batches, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddock.model.agent import AgentState
from paddock.model.task import Task, TaskResult, TaskState
from paddock.ports.record import Batch, Record
from paddock.record.sql import SqlRecord
from paddock.record.tables import tasks

from .facts import agent, event, result, running, task


def seqs(record: Record, **filters: Any) -> list[int]:
    return [stored.seq for stored in record.events(**filters).items]


def test_events_come_back_as_they_were_newest_first(record: Record) -> None:
    events = [event(seq, text=f"No. {seq}", by="ann", data={"pid": seq}) for seq in (1, 2, 2**53 + 1)]

    record.apply(Batch(events=events))

    assert record.events().items == events[::-1]


def test_an_event_is_recorded_once_and_never_changes(record: Record) -> None:
    record.apply(Batch(events=[event(1, text="first"), event(1, text="second")]))
    record.apply(Batch(events=[event(1, text="third")]))

    assert [stored.event.text for stored in record.events().items] == ["first"]


def test_events_are_found_by_what_they_are_about(record: Record) -> None:
    abouts = ["critic", "critic/0", "critic/1", "critic2/0", "critic-x", "coder"]
    record.apply(Batch(events=[event(seq, about=about) for seq, about in enumerate(abouts, 1)]))

    assert seqs(record, about="critic") == [3, 2, 1]
    assert seqs(record, about="critic/1") == [3]
    assert seqs(record, about="nobody") == []


def test_events_are_found_by_the_beginning_of_their_kind(record: Record) -> None:
    kinds = ["agent.died", "agent.ready", "agents.all", "Agent.x", "task.done", "agent_x"]
    record.apply(Batch(events=[event(seq, kind=kind) for seq, kind in enumerate(kinds, 1)]))

    assert seqs(record, kind="agent.") == [2, 1]
    assert seqs(record, kind="agent") == [6, 3, 2, 1]
    assert seqs(record, kind="task.done", about="critic") == [5]
    assert seqs(record, kind="%") == []


def test_event_pages_give_every_event_once(record: Record) -> None:
    record.apply(Batch(events=[event(seq) for seq in range(1, 8)]))

    first = record.events(limit=3)
    record.apply(Batch(events=[event(8)]))
    assert first.next is not None
    second = record.events(limit=3, after=first.next)
    assert second.next is not None
    third = record.events(limit=3, after=second.next)

    assert [s.seq for page in (first, second, third) for s in page.items] == [7, 6, 5, 4, 3, 2, 1]
    assert third.next is None


def test_text_that_a_database_cannot_hold_is_made_harmless(record: Record) -> None:
    record.apply(Batch(events=[event(1, text="a\0b\ud800", about="x" * 5000, data={"a": "\0"})]))

    (stored,) = record.events().items
    assert stored.event.text == "a�b?"
    assert stored.event.data == {"a": "\0"}


def test_the_latest_status_of_an_agent_is_kept(record: SqlRecord) -> None:
    record.apply(Batch(agents=[agent(), agent(state=AgentState.DRAINING), agent("coder/0")]))
    record.apply(Batch(agents=[agent(state=AgentState.STARTING, epoch=2)]))
    record.apply(Batch(agents=[agent(state=AgentState.STOPPED, epoch=1)]))

    assert record.agents() == [agent("coder/0"), agent(state=AgentState.STARTING, epoch=2)]
    assert record.agents(fleet="coder") == [agent("coder/0")]


def test_a_cursor_starts_at_zero_and_never_goes_back(record: Record) -> None:
    assert record.cursor("EVENTS") == 0

    record.apply(Batch(cursors={"EVENTS": 2**40, "RESULTS": 3}))
    record.apply(Batch(cursors={"EVENTS": 5}))

    assert record.cursor("EVENTS") == 2**40
    assert record.cursor("RESULTS") == 3


def test_a_cursor_is_worth_nothing_for_another_stream_of_the_same_name(record: Record) -> None:
    record.apply(Batch(cursors={"WORK": 90, "EVENTS": 7}, created={"WORK": "one"}))
    assert (record.cursor("WORK", "one"), record.cursor("WORK", "two"), record.cursor("EVENTS")) == (90, 0, 7)

    record.apply(Batch(cursors={"WORK": 3}, created={"WORK": "two"}))
    record.apply(Batch(cursors={"WORK": 2}, created={"WORK": "two"}))

    assert (record.cursor("WORK", "one"), record.cursor("WORK", "two")) == (0, 3)


def test_events_of_a_stream_that_was_made_anew_come_after_those_of_the_old_one(record: Record) -> None:
    record.apply(Batch(events=[event(seq, text=f"old {seq}", created="one") for seq in (1, 2, 3)]))
    again = [event(seq, text=f"new {seq}", created="two") for seq in (1, 2)]
    record.apply(Batch(events=again))
    record.apply(Batch(events=again))

    first = record.events(limit=3)
    assert first.next is not None
    texts = [stored.event.text for page in (first, record.events(after=first.next)) for stored in page.items]
    assert texts == ["new 2", "new 1", "old 3", "old 2", "old 1"]
    assert first.items[0] == again[1]


def test_old_events_and_agents_that_went_long_ago_are_pruned_a_piece_at_a_time(record: SqlRecord) -> None:
    record.apply(Batch(events=[event(seq, at=float(seq)) for seq in range(1, 8)]))
    record.apply(Batch(agents=[agent("coder/0"), agent("coder/1"), agent("coder/2")], at=10.0))
    record.apply(Batch(agents=[agent("coder/1", epoch=2)], at=95.0))

    def prune() -> int:
        return record.prune(100.0, events_kept_s=95.0, agents_kept_s=50.0, limit=3)

    assert [prune(), prune(), prune()] == [5, 1, 0]
    assert seqs(record) == [7, 6, 5]
    assert [status.id for status in record.agents()] == ["coder/1"]


def test_an_empty_batch_is_no_work(record: Record) -> None:
    record.apply(Batch())

    assert record.counts() == {}


def test_the_record_is_there_after_it_was_closed(url: str) -> None:
    record = SqlRecord.open(url)
    record.apply(Batch(queued=[task()], cursors={"EVENTS": 7}))
    record.close()

    again = SqlRecord.open(url)
    assert again.task("t1") is not None
    assert again.cursor("EVENTS") == 7
    again.ping()
    again.close()


def test_a_batch_of_thousands_is_taken_whole(record: Record) -> None:
    names = [f"t{i}" for i in range(3000)]

    record.apply(Batch(queued=[task(n) for n in names], results=[result(n) for n in names]))

    assert record.counts() == {("critic", "done"): 3000}


# The property: whatever the order, and however often, the same facts make the same rows.


@dataclass(frozen=True)
class Facts:
    queued: tuple[Task, ...]
    running: tuple[tuple[str, str, str, int, float], ...]
    results: tuple[TaskResult, ...]


_IDS = st.sampled_from(["a", "b", "c"])


def _task(task_id: str, not_before: float, attempts: int) -> Task:
    return task(task_id, args={"for": task_id}, submitted_by="ann", not_before=not_before, attempts_before=attempts)


def _result(task_id: str, state: TaskState, knows: bool) -> TaskResult:
    # What a foreign agent did not repeat must not be what stays.
    return result(task_id, state=state, args={"for": task_id} if knows else {}, attempts=2)


_QUEUED = st.builds(_task, _IDS, st.sampled_from([0.0, 5.0, 9.0]), st.integers(0, 2))
_RUNNING = st.builds(
    running, _IDS, st.sampled_from(["critic/0", "critic/1"]), st.integers(1, 3), st.sampled_from([90.0, 95.5])
)
_ENDED = st.sampled_from([state for state in TaskState if state.ended])
_RESULT = st.builds(_result, _IDS, _ENDED, st.booleans())
_FACTS = st.builds(
    Facts,
    st.lists(_QUEUED, max_size=4).map(tuple),
    st.lists(_RUNNING, max_size=4).map(tuple),
    # The fabric stores one result per task.
    st.lists(_RESULT, max_size=3, unique_by=lambda one: one.id).map(tuple),
)


def rows(record: SqlRecord) -> list[sa.Row[tuple[object, ...]]]:
    with record._engine.connect() as connection:
        return list(connection.execute(sa.select(tasks).order_by(tasks.c.id)).all())


@pytest.fixture
def two_records(new_url: Callable[[], str]) -> Iterator[tuple[SqlRecord, SqlRecord]]:
    made = SqlRecord.open(new_url()), SqlRecord.open(new_url())
    yield made
    for record in made:
        record.close()


@settings(
    max_examples=40,
    deadline=None,  # a real database, on a machine that others use
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # every example empties the tables first
)
@given(facts=_FACTS, data=st.data())
def test_facts_in_any_order_and_doubled_make_the_same_rows(
    two_records: tuple[SqlRecord, SqlRecord], facts: Facts, data: st.DataObject
) -> None:
    apart, together = two_records
    for record in two_records:
        with record._engine.begin() as connection:
            connection.execute(sa.delete(tasks))
    alone = [
        *(Batch(queued=[one]) for one in facts.queued),
        *(Batch(running=[one]) for one in facts.running),
        *(Batch(results=[one]) for one in facts.results),
    ]

    for batch in data.draw(st.permutations(alone + alone)):
        apart.apply(batch)
    for _ in range(2):
        together.apply(Batch(queued=facts.queued, running=facts.running, results=facts.results))

    assert rows(apart) == rows(together)

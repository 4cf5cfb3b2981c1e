"""That lists stay quick at a million rows is shown by how SQLite would look for them, not by a clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from paddock.record import queries
from paddock.record.sql import SqlRecord

ANY: dict[str, Any] = {"fleet": "", "state": "", "agent": "", "after": None, "limit": 10}
ALL: dict[str, Any] = {"about": "", "kind": "", "after": None, "limit": 10}


@pytest.fixture
def engine(sqlite_path: Path) -> Iterator[sa.Engine]:
    record = SqlRecord.open(f"sqlite:///{sqlite_path}")
    yield record._engine
    record.close()


def plan(engine: sa.Engine, query: sa.ClauseElement) -> str:
    text = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        return "; ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))


@pytest.mark.parametrize("after", [None, (5.0, "t")])
@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "tasks_newest"),
        ({"fleet": "a"}, "tasks_by_fleet"),
        ({"state": "dead"}, "tasks_by_state"),
        ({"fleet": "a", "state": "dead"}, "tasks_by_fleet_state"),
        ({"agent": "a/0"}, "tasks_by_agent"),
    ],
)
def test_a_list_of_tasks_walks_one_index_and_sorts_nothing(
    engine: sa.Engine, filters: dict[str, str], index: str, after: tuple[float, str] | None
) -> None:
    found = plan(engine, queries.list_tasks(**ANY | filters | {"after": after}))

    assert f"USING INDEX {index} " in f"{found} "
    assert "TEMP B-TREE" not in found


@pytest.mark.parametrize("after", [None, 5])
@pytest.mark.parametrize("filters", [{}, {"about": "a"}, {"about": "a/0"}])
def test_a_list_of_events_sorts_nothing(engine: sa.Engine, filters: dict[str, str], after: int | None) -> None:
    found = plan(engine, queries.list_events(**ALL | filters | {"after": after}))

    assert "TEMP B-TREE" not in found


def test_forgetting_looks_only_at_what_is_over(engine: sa.Engine) -> None:
    found = plan(engine, queries.forget_tasks(5.0, 10))

    assert "tasks_kept (kept_until<?)" in found
    assert "SCAN" not in found
    assert "TEMP B-TREE" not in found


def test_counting_reads_an_index_only(engine: sa.Engine) -> None:
    assert "COVERING INDEX tasks_by_fleet_state" in plan(engine, queries.count_tasks())


def test_pruning_and_looking_for_lost_tasks_walk_an_index(engine: sa.Engine) -> None:
    for query, index in (
        (queries.prune_events(5.0, 10), "events_by_age (at<?)"),
        (queries.prune_agents(5.0, 10), "agents_seen (seen_at<?)"),
        (queries.list_unfinished(state="queued", before=5.0, after=None, limit=10), "tasks_by_state (state=?"),
        (queries.list_unfinished(state="queued", before=5.0, after=(1.0, "t"), limit=10), "tasks_by_state (state=?"),
    ):
        found = plan(engine, query)
        assert index in found
        assert "SCAN" not in found
        assert "TEMP B-TREE" not in found

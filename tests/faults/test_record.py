"""The record's disk gives errors, its file is locked, its file is damaged: while a server writes into it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

from .conftest import all_ready, manifest, no_growth, parts, submit, why_unready

pytestmark = pytest.mark.xdist_group("faults")

TASKS = 20


@pytest.fixture
def lab(installation: Installation, tmp_path: Path) -> Installation:
    """Its record knows of one task already."""
    installation.up(manifest(tmp_path / "m.yaml", lab="replicas: 2, concurrency: 4"))
    all_ready(installation, 2)
    work(installation, 1)
    until(lambda: not waiting(installation), what="it is recorded")
    return installation


@pytest.fixture
def database(lab: Installation) -> Iterator[sqlite3.Connection]:
    """The record's file, as another program opens it."""
    with closing(sqlite3.connect(lab.data / "record.db", isolation_level=None)) as opened:
        yield opened


def work(lab: Installation, count: int = TASKS) -> list[str]:
    """Have tasks done, whatever the record does; their ids."""
    with lab.http() as http:
        done = [submit(http, "add", wait_s=60, x=number).json() for number in range(count)]
    assert [task["state"] for task in done] == ["done"] * count, done
    return [task["id"] for task in done]


def waiting(lab: Installation) -> int:
    """Rows that the server has not written yet."""
    with lab.http() as http:
        return int(http.get("/status").raise_for_status().json()["rows_waiting"])


def recorded(lab: Installation) -> dict[str, Any]:
    """State and result of each task, from the record."""
    with lab.http() as http:
        items = http.get("/api/v1/tasks", params={"limit": 1000}).raise_for_status().json()["items"]
    return {task["id"]: (task["state"], task["result"]) for task in items}


def record_says(lab: Installation, text: str) -> None:
    until(lambda: text in parts(lab)["record"], what=f"/readyz says of the record: {text}", limit_s=60.0)


@contextmanager
def nothing_restarts(lab: Installation) -> Iterator[None]:
    def pids() -> dict[str, int]:
        return {**all_ready(lab, 2), **{role: lab.running(role)["pid"] for role in ("fabric", "node", "server")}}

    before = pids()
    yield
    assert pids() == before


def went_on(lab: Installation, tasks: list[str]) -> None:
    """All is well again, and the record knows what was done meanwhile."""
    expected = [("done", number + 1) for number in range(TASKS)]

    def well() -> bool:
        try:
            known = recorded(lab)
            return [known.get(task) for task in tasks] == expected and not why_unready(lab)
        except (OSError, httpx.HTTPError):  # the server is being started anew
            return False

    until(well, what="all is well, and what was done meanwhile is recorded", limit_s=60.0)


def test_a_disk_that_gives_errors_loses_no_row_of_the_record(lab: Installation) -> None:
    with nothing_restarts(lab):
        with no_growth([lab.running("server")["pid"]]):
            tasks = work(lab)
            record_says(lab, "the disk gave an error (disk I/O error)")
        went_on(lab, tasks)


def test_a_record_that_is_locked_for_long_loses_no_row(lab: Installation, database: sqlite3.Connection) -> None:
    with nothing_restarts(lab):
        database.execute("BEGIN IMMEDIATE")
        tasks = work(lab)
        record_says(lab, "another program holds it locked")  # after the time that each write waits for a lock
        database.execute("ROLLBACK")
        went_on(lab, tasks)


def damage(database: sqlite3.Connection, path: Path) -> None:
    """Garbage over the first page of the table of tasks, and whoever has it in memory is made to read it again."""
    until(lambda: database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, what="all is in the file")
    page_bytes = database.execute("PRAGMA page_size").fetchone()[0]
    page = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    database.execute("PRAGMA user_version = 0")


def test_a_record_that_is_damaged_in_use_loses_no_row(lab: Installation, database: sqlite3.Connection) -> None:
    path = lab.data / "record.db"
    with nothing_restarts(lab):
        damage(database, path)
        tasks = work(lab)
        record_says(lab, "is damaged (database disk image is malformed)")
        assert "move it away" in parts(lab)["record"]
        assert waiting(lab)
    server = lab.running("server")["pid"]
    for file in lab.data.glob("record.db*"):
        file.rename(file.with_name(f"damaged-{file.name}"))
    until(lambda: not psutil.pid_exists(server), what="the server has seen it")
    went_on(lab, tasks)

"""What happens when a database does not do what it should; every failure here is a real one."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from paddock.model.errors import DataDirError, PaddockError, Refused, Unavailable
from paddock.ports.record import Batch
from paddock.record import connect
from paddock.record.sql import SqlRecord

from .facts import event, result, task
from .postgres import Postgres

NOBODY = 65534


def open_sqlite(path: Path) -> SqlRecord:
    return SqlRecord.open(f"sqlite:///{path}")


def pragma(record: SqlRecord, text: str) -> None:
    """Set something on the one connection that this thread's calls use."""
    with record._engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA {text}")


@contextmanager
def without_roots_powers() -> Iterator[None]:
    """Root may write everywhere, whatever the modes say; a server seldom runs as root."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder with a record inside, that the owner then closed to writers."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # not tmp_path: its parents are closed to nobody
        folder = Path(name)
        record = open_sqlite(folder / "record.db")
        record.apply(Batch(queued=[task()]))
        record.close()
        (folder / "record.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


# URLs


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://ann:s3cret@host/db", "postgresql+psycopg2://ann:s3cret@host/db",
                                 "bogus://ann:s3cret@h/d", "postgresql://ann:s3cret@host:port/db"])  # fmt: skip
def test_a_url_that_names_no_known_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Refused, match=r"use sqlite:.*postgresql:") as caught:
        SqlRecord.open(url)

    assert "s3cret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_unavailable_and_the_password_stays_secret() -> None:
    with pytest.raises(Unavailable, match="does not answer") as caught:
        SqlRecord.open("postgresql://ann:s3cret@127.0.0.1:1/db?sslpassword=s3cret2")

    assert "postgresql://ann:***@127.0.0.1:1/db" in str(caught.value)
    assert "s3cret2" not in str(caught.value)


def test_a_database_that_does_not_exist_is_unavailable(postgres: Postgres) -> None:
    with pytest.raises(Unavailable, match="does not exist"):
        SqlRecord.open(postgres.url("no_such"))


# SQLite: the file


def test_only_the_owner_may_read_the_file(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    record.apply(Batch(queued=[task()]))

    modes = {file.name: file.stat().st_mode & 0o777 for file in sqlite_path.parent.iterdir()}
    assert modes == {"record.db": 0o600, "record.db-wal": 0o600, "record.db-shm": 0o600}
    record.close()


def test_the_file_is_written_so_that_a_power_cut_loses_nothing(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)

    with record._engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]

    assert found == ["wal", 2, connect.BUSY_S_MAX * 1000]
    record.close()


def test_a_folder_that_is_a_file_is_a_data_dir_error(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("not one")

    with pytest.raises(DataDirError, match=r"record\.db cannot be opened for writing: Not a directory"):
        open_sqlite(tmp_path / "folder" / "record.db")


def test_a_folder_in_place_of_the_file_is_a_data_dir_error(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="Is a directory"):
        open_sqlite(tmp_path)


def test_a_file_that_may_not_be_written_is_unavailable(locked_folder: Path) -> None:
    with (
        without_roots_powers(),
        pytest.raises(Unavailable, match=r"record\.db cannot be opened for writing: Permission denied"),
    ):
        open_sqlite(locked_folder / "record.db")


def test_a_folder_that_may_not_be_written_is_unavailable(locked_folder: Path) -> None:
    (locked_folder / "record.db").chmod(0o666)  # the file itself could be written; its -wal cannot be made

    with without_roots_powers(), pytest.raises(Unavailable, match=r"record\.db cannot be used now"):
        open_sqlite(locked_folder / "record.db")


def test_a_file_that_is_no_database_is_refused_with_the_way_out(sqlite_path: Path) -> None:
    sqlite_path.write_bytes(b"this was a letter to my aunt\n" * 1000)

    with pytest.raises(DataDirError, match=r"record\.db is damaged .*restore a backup.*move it away.*still hold"):
        open_sqlite(sqlite_path)

    assert sqlite_path.read_bytes().startswith(b"this was a letter")


def test_a_damaged_page_is_told_with_the_way_out(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    record.apply(Batch(queued=[task(f"t{i}", args={"text": "x" * 500}) for i in range(500)]))
    record.close()
    content = bytearray(sqlite_path.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)  # the tables' names stay, their content goes
    sqlite_path.write_bytes(content)

    with pytest.raises(DataDirError, match=r"record\.db is damaged .*restore a backup"):
        read_everything(sqlite_path)


def read_everything(path: Path) -> None:
    record = open_sqlite(path)
    try:
        record.tasks(limit=1000)
        record.counts()
        record.apply(Batch(queued=[task("one more")]))
    finally:
        record.close()


def test_a_file_that_is_damaged_in_use_is_away_until_it_is_mended(sqlite_path: Path) -> None:
    """Not final to who has it open: else its rows would count as refused, and be lost."""
    record = open_sqlite(sqlite_path)
    record.apply(Batch(queued=[task("before")], cursors={"WORK": 1}))
    other = sqlite3.connect(sqlite_path, isolation_level=None)
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    page_bytes = other.execute("PRAGMA page_size").fetchone()[0]
    page = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").fetchone()[0]
    place = slice((page - 1) * page_bytes, page * page_bytes)
    good = sqlite_path.read_bytes()[place]
    overwrite(sqlite_path, place.start, b"\xff" * page_bytes)
    other.execute("PRAGMA user_version = 0")  # so that nobody's memory of the page counts

    with pytest.raises(Unavailable, match=r"is damaged \(database disk image is malformed\).*move it away"):
        record.apply(Batch(queued=[task("later")], cursors={"WORK": 2}))
    assert record.cursor("WORK") == 1

    overwrite(sqlite_path, place.start, good)
    other.execute("PRAGMA user_version = 0")
    other.close()
    record.apply(Batch(queued=[task("later")], cursors={"WORK": 2}))
    assert {view.id for view in record.tasks().items} == {"before", "later"}
    record.close()


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_a_disk_that_gives_errors_is_unavailable_and_nothing_is_half_applied(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    record.apply(Batch(queued=[task("before")], cursors={"WORK": 1}))
    batch = Batch(queued=[task(f"t{i}", args={"x": "y" * 5000}) for i in range(200)], cursors={"WORK": 201})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sqlite_path.with_name("record.db-wal").stat().st_size, limits[1]))
    try:
        with pytest.raises(Unavailable, match=r"the disk gave an error \(disk I/O error\)"):
            record.apply(batch)
        assert record.cursor("WORK") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert record.counts() == {("critic", "queued"): 1}
    record.apply(batch)
    assert record.cursor("WORK") == 201
    record.close()


def test_a_moved_file_is_noticed(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    record.ping()

    sqlite_path.rename(sqlite_path.with_suffix(".old"))
    with pytest.raises(Unavailable, match="moved, deleted or replaced"):
        record.ping()
    sqlite_path.touch()
    with pytest.raises(Unavailable, match="moved, deleted or replaced"):
        record.ping()
    record.close()


def test_a_write_that_finds_the_file_locked_for_too_long_is_unavailable(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    pragma(record, "busy_timeout = 20")
    other = sqlite3.connect(sqlite_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unavailable, match="another program holds it locked"):
        record.apply(Batch(queued=[task()]))
    assert record.task("t1") is None  # readers go on

    other.execute("ROLLBACK")
    other.close()
    record.apply(Batch(queued=[task()]))
    assert record.task("t1") is not None
    record.close()


def test_a_full_disk_is_unavailable_and_nothing_is_half_applied(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    record.apply(Batch(queued=[task("before")], cursors={"WORK": 1}))
    pragma(record, "max_page_count = 40")

    large = Batch(queued=[task(f"t{i}", args={"x": "y" * 5000}) for i in range(200)], cursors={"WORK": 201})
    with pytest.raises(Unavailable, match="the disk is full"):
        record.apply(large)
    assert record.counts() == {("critic", "queued"): 1}
    assert record.cursor("WORK") == 1

    pragma(record, "max_page_count = 1000000")
    record.apply(large)
    assert record.cursor("WORK") == 201
    record.close()


def test_a_connection_that_may_only_read_is_unavailable_for_writes(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    pragma(record, "query_only = ON")

    with pytest.raises(Unavailable, match="it is read-only"):
        record.apply(Batch(events=[event(1)]))
    assert record.events().items == []
    record.close()


def test_damaged_rows_are_shown_as_such_and_break_no_list(sqlite_path: Path) -> None:
    record = open_sqlite(sqlite_path)
    record.apply(
        Batch(
            queued=[task(f"t{i}", submitted_at=float(i)) for i in range(1, 8)],
            results=[result("t9", submitted_at=9.0)],
            events=[event(1), event(2)],
        )
    )
    damage = [
        "UPDATE tasks SET args = '{\"a' WHERE id = 't1'",
        "UPDATE tasks SET args = '[1]' WHERE id = 't2'",
        "UPDATE tasks SET state = 'lost' WHERE id = 't3'",
        "UPDATE tasks SET result = x'ff00' WHERE id = 't4'",
        "UPDATE tasks SET method = CAST(x'ff66' AS TEXT) WHERE id = 't5'",
        "UPDATE tasks SET attempts = 'many' WHERE id = 't6'",
        "UPDATE tasks SET submitted_at = 'long ago', priority = NULLIF('a', 'b') WHERE id = 't7'",
        "UPDATE tasks SET error = '7' WHERE id = 't9'",
        "UPDATE events SET data = 'NaN', at = 'never' WHERE seq = 1",
    ]
    with sqlite3.connect(sqlite_path) as other:
        for statement in damage:
            other.execute(statement)
    other.close()

    views = {view.id: view for page in [record.tasks()] for view in page.items}

    assert set(views) == {"t1", "t2", "t3", "t4", "t5", "t6", "t7", "t9"}
    unreadable = {task_id for task_id, view in views.items() if view.error and view.error.code == "unreadable"}
    assert unreadable == {"t1", "t2", "t3", "t4", "t6", "t7", "t9"}
    assert views["t5"].method == "�f"
    assert [stored.event.at for stored in record.events().items] == [2.0, 0.0]
    assert len(record.tasks(limit=1).items) == 1
    record.close()


# Both databases


def test_lost_tables_are_told_with_what_to_do(record: SqlRecord) -> None:
    with record._engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE cursors"))

    with pytest.raises(DataDirError, match="lost its tables"):
        record.ping()


NO_LARGE_CURSORS = {
    "sqlite": "CREATE TRIGGER small BEFORE INSERT ON cursors WHEN NEW.seq > 9 BEGIN SELECT RAISE(ABORT, 'large'); END",
    "postgresql": "ALTER TABLE cursors ADD CONSTRAINT small CHECK (seq < 10)",
}


def test_a_batch_that_fails_in_its_last_statement_leaves_nothing_behind(record: SqlRecord) -> None:
    with record._engine.begin() as connection:
        connection.execute(sa.text(NO_LARGE_CURSORS[record._engine.dialect.name]))

    with pytest.raises(PaddockError, match="refused a statement") as caught:
        record.apply(Batch(queued=[task()], events=[event(1)], cursors={"WORK": 11}))

    assert not isinstance(caught.value, Unavailable)  # trying again would not help, and must not look as if
    assert record.task("t1") is None
    assert record.events().items == []


# PostgreSQL


@pytest.fixture
def pg_url(new_postgres_url: Callable[[], str]) -> str:
    return new_postgres_url()


def database(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def test_a_postgresql_that_went_away_is_unavailable_and_used_again_when_it_is_back(
    postgres: Postgres, pg_url: str
) -> None:
    record = SqlRecord.open(pg_url)
    name = database(pg_url)
    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgres.disconnect(name)

    with pytest.raises(Unavailable):
        record.apply(Batch(queued=[task()]))
    with pytest.raises(Unavailable):
        record.ping()

    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    record.ping()
    assert record.task("t1") is None
    record.apply(Batch(queued=[task()]))
    assert record.task("t1") is not None
    record.close()


def test_a_connection_that_breaks_between_two_calls_is_not_noticed(postgres: Postgres, pg_url: str) -> None:
    record = SqlRecord.open(pg_url)
    record.apply(Batch(queued=[task()]))
    postgres.disconnect(database(pg_url))

    assert record.task("t1") is not None
    record.close()


def test_a_postgresql_that_is_read_only_is_unavailable_for_writes(postgres: Postgres, pg_url: str) -> None:
    SqlRecord.open(pg_url).close()
    postgres.execute(f"ALTER DATABASE {database(pg_url)} SET default_transaction_read_only = on")
    record = SqlRecord.open(pg_url)  # an open that has nothing to migrate only reads

    with pytest.raises(Unavailable, match="it is read-only"):
        record.apply(Batch(queued=[task()]))
    assert record.task("t1") is None
    record.close()


# The room


def test_importing_the_package_brings_no_sqlalchemy_along() -> None:
    code = "import sys, paddock.record; sys.exit('sqlalchemy' in sys.modules or 'alembic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

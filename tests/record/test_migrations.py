"""Every database that was ever released becomes the one that the code expects."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from paddock.model.errors import DataDirError, PaddockError
from paddock.ports.record import Batch
from paddock.record import migrate
from paddock.record.connect import WRITES, make_engine
from paddock.record.sql import SqlRecord
from paddock.record.tables import metadata

from .facts import task

REVISIONS = [script.revision for script in ScriptDirectory.from_config(migrate.config()).walk_revisions()]
VERSION = sa.table(migrate.VERSION_TABLE, sa.column("version_num"))


def shape(engine: sa.Engine) -> dict[str, Any]:
    """All that can be seen of the tables."""
    found = sa.inspect(engine)
    return {
        name: {
            "columns": [
                {"type": repr(column["type"]), **{key: column[key] for key in ("name", "nullable", "default")}}
                for column in found.get_columns(name)
            ],
            "key": found.get_pk_constraint(name)["constrained_columns"],
            "indices": sorted((index["name"], index["column_names"]) for index in found.get_indexes(name)),
        }
        for name in found.get_table_names()
        if name != migrate.VERSION_TABLE
    }


def test_migrated_tables_are_the_tables_of_the_code(new_url: Callable[[], str]) -> None:
    migrated, _ = make_engine(migrated_url := new_url())
    fresh, _ = make_engine(new_url())
    SqlRecord.open(migrated_url).close()
    metadata.create_all(fresh)

    assert shape(migrated) == shape(fresh)
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrate.VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    migrated.dispose()
    fresh.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_every_earlier_version_is_brought_up(new_url: Callable[[], str], revision: str) -> None:
    old, place = make_engine(old_url := new_url())
    fresh, _ = make_engine(fresh_url := new_url())
    with old.execution_options(**{WRITES: True}).begin() as connection:
        migrate.upgrade(connection, place, revision)

    SqlRecord.open(fresh_url).close()
    record = SqlRecord.open(old_url)
    record.apply(Batch(queued=[task()]))

    assert record.task("t1") is not None
    assert shape(old) == shape(fresh)
    record.close()
    old.dispose()
    fresh.dispose()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str) -> None:
    record = SqlRecord.open(url)
    record.apply(Batch(queued=[task()]))
    record.close()
    engine, _ = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.update(VERSION).values(version_num="9999"))

    with pytest.raises(DataDirError, match=r"newer version of Paddock.*'9999'.*start that version again"):
        SqlRecord.open(url)

    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT id FROM tasks")).scalars().all() == ["t1"]
        connection.execute(sa.update(VERSION).values(version_num=REVISIONS[0]))
    engine.dispose()
    SqlRecord.open(url).close()


def test_tables_of_another_program_are_refused_and_left_alone(url: str) -> None:
    engine, _ = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE events (mine TEXT)"))

    with pytest.raises(DataDirError, match=r"did not make \(events\)"):
        SqlRecord.open(url)

    assert sa.inspect(engine).get_table_names() == ["events"]
    engine.dispose()


def test_two_that_open_a_new_database_at_once_both_find_it_ready(url: str) -> None:
    start = threading.Barrier(4)
    failures: list[PaddockError] = []

    def open_one() -> None:
        start.wait()
        try:
            SqlRecord.open(url).close()
        except PaddockError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_a_migration_that_fails_leaves_nothing_behind(url: str) -> None:
    engine, place = make_engine(url)
    writer = engine.execution_options(**{WRITES: True})

    def migrate_and_fail() -> None:
        with writer.begin() as connection:
            migrate.upgrade(connection, place)
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        migrate_and_fail()

    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    SqlRecord.open(url).close()

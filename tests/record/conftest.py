"""Every test that asks for `record` or `url` runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from paddock.record.sql import SqlRecord

from .postgres import Postgres

_numbers = count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def new_postgres_url(postgres: Postgres) -> Iterator[Callable[[], str]]:
    """Makes a fresh database each time it is called; all are gone after the test."""
    made = []

    def new() -> str:
        made.append(f"test_{next(_numbers)}")
        postgres.execute(f"CREATE DATABASE {made[-1]}")
        return postgres.url(made[-1])

    yield new
    for name in made:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def new_postgres_schema_url(postgres: Postgres) -> Callable[[], str]:
    """As above, but a schema of one database: ten times quicker to make, and thrown away with the server."""

    def new() -> str:
        name = f"test_{next(_numbers)}"
        postgres.execute(f"CREATE SCHEMA {name}")
        return f"{postgres.url('postgres')}&options=-csearch_path%3D{name}"

    return new


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the URL of a fresh, empty database each time it is called."""
    if request.param == "postgresql":
        new: Callable[[], str] = request.getfixturevalue("new_postgres_schema_url")
        return new
    return lambda: f"sqlite:///{tmp_path}/record-{next(_numbers)}.db"


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    return new_url()


@pytest.fixture
def record(url: str) -> Iterator[SqlRecord]:
    opened = SqlRecord.open(url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "record.db"

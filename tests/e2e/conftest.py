from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.testing.installation import Installation

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """A Paddock of its own; taken down at the end, and nothing of it may be left."""
    held = Installation(tmp_path / "data")
    yield held
    held.down()
    left = [f"{process.pid} {' '.join(process.cmdline())}" for process in held.processes()]
    for process in held.processes():
        process.kill()
    assert left == []


@pytest.fixture(scope="module")
def foundry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The example of the README, running; shared by the tests of one file."""
    held = Installation(tmp_path_factory.mktemp("foundry") / "data")
    try:
        held.up(EXAMPLES / "foundry.yaml")
        yield held
    finally:
        held.down()


@pytest.fixture
def examples() -> Path:
    return EXAMPLES

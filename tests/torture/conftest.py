"""Short forms for every run of the tests; long ones when `PADDOCK_TORTURE=long` (./dev torture, ./dev soak).

`PADDOCK_TORTURE_SEED` chooses the kills. `PADDOCK_TORTURE_ROUNDS`, `…_TASKS`, `…_SOAK_S` and `…_RESTARTS` change the
sizes of the long forms.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from .rig import Rig

HERE = Path(__file__).parent
Size = Callable[[str, int, int], int]


def is_long() -> bool:
    return os.environ.get("PADDOCK_TORTURE") == "long"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One at a time, for each wants a machine to itself; the long forms without a limit."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(0 if is_long() else 300))
            item.add_marker(pytest.mark.xdist_group("torture"))


@pytest.fixture
def size() -> Size:
    """(name, short, long) → how large this run is."""

    def choose(name: str, short: int, long: int) -> int:
        return int(os.environ.get(f"PADDOCK_TORTURE_{name.upper()}", long)) if is_long() else short

    return choose


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print past pytest in the long forms; the short ones are silent unless they fail."""

    def told(text: str) -> None:
        if is_long():
            with capsys.disabled():
                print(text, flush=True)
        else:
            print(text)

    return told


@pytest.fixture
def rigs() -> Iterator[Callable[[str], Rig]]:
    """Makes Paddocks, each running; at the end they are taken down, and nothing of them may be left."""
    made: list[Rig] = []
    folders: list[Path] = []
    agents: list[psutil.Process] = []

    def make(text: str) -> Rig:
        folders.append(Path(tempfile.mkdtemp(prefix="paddock-torture-")))
        made.append(Rig(folders[-1], int(os.environ.get("PADDOCK_TORTURE_SEED", "1")), text))
        made[-1].up()
        return made[-1]

    yield make
    for rig in made:
        for pid in rig.pids().values():
            try:
                agents.append(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue
        rig.held.down()
    left = [process for rig in made for process in rig.held.processes()]
    left += [process for process in agents if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    names = [f"{process.pid} {' '.join(process.cmdline())}" for process in left]
    for process in left:
        process.kill()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    assert names == []

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.app import room
from paddock.app.data import DataDir


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = DataDir.open(tmp_path / "data", create=True)
    fabric = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    data.announce("fabric", pid=fabric.pid)
    yield data
    fabric.communicate()


def test_a_fabric_that_met_a_full_disk_is_unwell_once_there_is_room(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = room.DiskWatch(data)
    free = {"bytes": 10 * room.ROOM_BYTES}
    monkeypatch.setattr(room, "free_bytes", lambda path: free["bytes"])
    assert watch.unwell() == ""
    free["bytes"] = 0
    assert "is full" in room.no_room(data.path)
    assert watch.unwell() == ""
    free["bytes"] = room.FULL_BYTES
    assert watch.unwell() == ""
    free["bytes"] = room.ROOM_BYTES
    assert "has room again" in watch.unwell()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as another:
        data.announce("fabric", pid=another.pid)
        assert watch.unwell() == ""
        another.communicate()

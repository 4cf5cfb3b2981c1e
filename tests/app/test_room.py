from __future__ import annotations

from pathlib import Path

import pytest

from paddock.app import room


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda path: room.FULL_BYTES)
    assert room.no_room(tmp_path) == ""
    monkeypatch.setattr(room, "free_bytes", lambda path: room.FULL_BYTES - 1)
    assert "is full" in room.no_room(tmp_path)

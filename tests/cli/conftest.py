from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .canned import Paddock, serving


@pytest.fixture
def paddock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paddock]:
    monkeypatch.delenv("COLUMNS", raising=False)  # tables are as wide as in a pipe, whoever runs the tests
    with serving(tmp_path) as canned:
        yield canned

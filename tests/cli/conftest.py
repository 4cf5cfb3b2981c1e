from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .canned import Paddock, serving


@pytest.fixture
def paddock(tmp_path: Path) -> Iterator[Paddock]:
    with serving(tmp_path) as canned:
        yield canned

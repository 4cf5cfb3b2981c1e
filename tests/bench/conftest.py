"""The helpers of bench/, which is no package: its files are run, not imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield BENCH
    for name in set(sys.modules) - before:
        if name.startswith("_") and (BENCH / f"{name}.py").exists():
            del sys.modules[name]

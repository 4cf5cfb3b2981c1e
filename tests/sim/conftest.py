"""Every scenario runs with many seeds. `PADDOCK_SIM_SEEDS=200` for more, `PADDOCK_SIM_SEED=7` to see one again."""

from __future__ import annotations

import os

import pytest

SEEDS = 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        one = os.environ.get("PADDOCK_SIM_SEED")
        seeds = [int(one)] if one else range(int(os.environ.get("PADDOCK_SIM_SEEDS", SEEDS)))
        metafunc.parametrize("seed", seeds)

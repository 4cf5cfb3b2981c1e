from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .disk import Disk, NoPowerToCut
from .traced import TracedDisk

WAYS = {"mount": Disk, "trace": TracedDisk}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk | TracedDisk]:
    """A disk whose power can be cut, the best that this machine allows; `PADDOCK_POWER_WAY` (mount, trace) names one.
    Where neither works the test fails: a power cut that was not tried must not pass for one that was survived."""
    asked = os.environ.get("PADDOCK_POWER_WAY", "")
    refused = []
    for name in [asked] if asked else list(WAYS):
        try:
            made = WAYS[name](tmp_path / name)
        except NoPowerToCut as error:
            refused.append(f"{name}: {error}")
            continue
        yield made
        made.close()
        return
    pytest.fail(
        "the power cannot be cut on this machine: be root where loop devices can be mounted (mkfs.ext4), or install "
        f"strace and allow it to trace ({'; '.join(refused)})"
    )

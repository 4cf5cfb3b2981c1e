"""The disk of the data directory does not answer for a while: every write to it waits."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paddock.testing.wait import until

from .conftest import Size, all_ready, ends, held, manifest, submit, works

pytestmark = pytest.mark.xdist_group("faults")

IMAGE_BYTES = 256 * 1024 * 1024


@pytest.fixture
def own_disk(tmp_path: Path, weaker: Callable[[str], None]) -> Iterator[tuple[Path, bool]]:
    """A folder on an ext4 of its own; or, where none can be mounted, a plain one, and False."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True, text=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        weaker(f"only the broker stands still, not the disk: {getattr(error, 'stderr', '') or error}")
        yield folder, False
        return
    yield folder, True
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def frozen(folder: Path, mounted: bool, broker: int) -> Iterator[None]:
    """Nothing is written there meanwhile: by fsfreeze, else by a broker that stands still."""
    if mounted:
        subprocess.run(["fsfreeze", "--freeze", str(folder)], check=True)
    else:
        os.kill(broker, signal.SIGSTOP)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["fsfreeze", "--unfreeze", str(folder)], check=True)
        else:
            os.kill(broker, signal.SIGCONT)


def test_a_frozen_disk_loses_nothing_and_restarts_no_agent(
    own_disk: tuple[Path, bool], tmp_path: Path, size: Size
) -> None:
    disk, mounted = own_disk
    path = manifest(tmp_path / "m.yaml", lab="replicas: 2, concurrency: 8, health: {hang_s: 2}")
    notes = tmp_path / "notes"
    with held(disk / "data") as lab:
        lab.up(path)
        before = all_ready(lab, 2)
        with lab.http() as http:
            tasks = [
                submit(http, "note", path=str(notes), text=str(number), takes_s=0.5 * number).json()["id"]
                for number in range(10)
            ]
        with frozen(disk, mounted, lab.running("fabric")["pid"]):
            over_at = time.monotonic() + size(6.0, 30.0)  # far longer than the agents' hang limit
            until(lambda: time.monotonic() > over_at, what="the time is over", limit_s=60.0)
        assert [ends(lab, task)["state"] for task in tasks] == ["done"] * len(tasks)
        assert Counter(notes.read_text().split()) == Counter(map(str, range(10)))
        works(lab)
        assert all_ready(lab, 2) == before

"""The disk of the data directory is full: for a moment, and for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

from .conftest import all_ready, ends, held, manifest, submit, why_unready, works

pytestmark = pytest.mark.xdist_group("disk")


class Filler:
    """Takes all the room of a disk, down to the last byte, and gives it back."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "filler"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for piece in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * piece)
                except OSError:
                    continue

    def clear(self) -> None:
        self._path.unlink()


@pytest.fixture
def installation(small_disk: Path) -> Iterator[Installation]:
    with held(small_disk / "data") as made:
        yield made


class Still:
    """True once none of the files has grown for a second."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths, self._sizes, self._since = paths, [0], time.monotonic()

    def __call__(self) -> bool:
        sizes = [path.stat().st_size for path in self._paths]
        if sizes != self._sizes:
            self._sizes, self._since = sizes, time.monotonic()
        return time.monotonic() - self._since > 1.0


def test_a_full_disk_stops_no_agent_and_everything_goes_on_once_there_is_room(
    installation: Installation, small_disk: Path, tmp_path: Path
) -> None:
    installation.up(manifest(tmp_path / "m.yaml", lab="replicas: 2, concurrency: 4"))
    before = all_ready(installation, 2)
    gate, filler = tmp_path / "gate", Filler(small_disk)
    with installation.http() as http:
        running = submit(http, "wait_for", path=str(gate)).json()["id"]
        chatting = submit(http, "chatter", lines=10)
        assert chatting.status_code == 202
        filler.fill()
        refused = submit(http, "add", x=1)
        assert refused.status_code == 503
        assert "is full" in refused.json()["detail"]
        gate.touch()  # it ends now, and its result cannot be stored
        until(lambda: why_unready(installation), what="it is said that nothing can be stored")
        logs = list(installation.data.glob("node/*/agents/lab/*/agent.log"))
        assert logs
        until(Still(logs), what="their logs stand still, though they write")
    filler.clear()
    assert ends(installation, running)["result"] == "seen"
    until(lambda: not why_unready(installation), what="all is well again", limit_s=60.0)
    until(lambda: sum(a["log_lost"] for a in installation.agents().values()), what="lost log lines are told")
    assert all_ready(installation, 2) == before
    works(installation)


def test_a_disk_that_was_full_for_a_moment_only_is_noticed(
    installation: Installation, small_disk: Path, tmp_path: Path
) -> None:
    installation.up(manifest(tmp_path / "m.yaml", lab="replicas: 2, concurrency: 4"))
    before = all_ready(installation, 2)
    gate, filler = tmp_path / "gate", Filler(small_disk)
    with installation.http() as http:
        running = submit(http, "wait_for", path=str(gate)).json()["id"]
        filler.fill()
        gate.touch()

        try:
            until(lambda: "RESULTS takes no writes" in why_unready(installation), what="the result was not stored")
        finally:
            filler.clear()
    assert ends(installation, running)["result"] == "seen"
    until(lambda: not why_unready(installation), what="all is well again", limit_s=60.0)
    assert all_ready(installation, 2) == before


def test_down_and_up_while_the_disk_is_full(installation: Installation, small_disk: Path, tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.yaml", lab="replicas: 2")
    installation.up(path)
    all_ready(installation, 2)
    filler = Filler(small_disk)
    filler.fill()
    assert installation.cli("down", ok=False).returncode == 0
    assert installation.processes() == []
    refused = installation.cli("up", "--detach", "--port", "0", ok=False)
    assert refused.returncode == 1
    assert "no space left" in refused.stdout + refused.stderr
    assert installation.processes() == []
    filler.clear()
    installation.up(path)
    all_ready(installation, 2)

"""A part of what a full disk does, for machines on which nothing can be mounted: all but the broker's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

from .conftest import all_ready, manifest, no_growth, parts, submit, why_unready

pytestmark = pytest.mark.xdist_group("disk")


def test_files_that_cannot_grow_stop_neither_agents_nor_keepers(installation: Installation, tmp_path: Path) -> None:
    installation.up(manifest(tmp_path / "m.yaml", lab="replicas: 2, concurrency: 4"))
    before = all_ready(installation, 2)
    pids = [*before.values(), *(installation.running(role)["pid"] for role in ("node", "server"))]
    with no_growth(pids):
        with installation.http() as http:
            done = submit(http, "chatter", wait_s=60, lines=10).json()
            assert done["result"] == 10
        until(lambda: sum(a["log_lost"] for a in installation.agents().values()) >= 10, what="lost lines are counted")
        until(lambda: parts(installation)["record"] != "ok", what="it is said that nothing can be recorded")
    until(lambda: not why_unready(installation), what="all is well again", limit_s=60.0)
    assert all_ready(installation, 2) == before

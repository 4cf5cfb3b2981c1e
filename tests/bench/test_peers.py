"""How the peers are held: pinned, and taken down with all their descendants."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from paddock.testing.wait import until

FAMILY = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
with open(sys.argv[1], "w") as held:
    held.write(f"{child.pid}\\n")
child.wait()
"""


def test_every_peer_is_pinned_and_its_files_are_there(bench: Path) -> None:
    from _peers import pins, version
    from _queues import QUEUES
    from _supervisors import SUPERVISORS

    assert {queue.lock for queue in QUEUES} == {"celery", "dramatiq", "rq", "arq", "taskiq", "huey"}
    assert all((bench / "peers" / f"{queue.module}.py").exists() for queue in QUEUES)
    for name in [*(queue.lock for queue in QUEUES), *SUPERVISORS]:
        assert version(name), name
    locks = [lock.stem for lock in (bench / "peers").glob("*.lock")]
    assert all("==" in pin or "@" in pin for name in locks for pin in pins(name))


def test_a_process_is_taken_down_with_a_child_that_left_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _peers

    monkeypatch.setattr(_peers, "END_S", 0.2)  # its parent ignores SIGTERM
    told = tmp_path / "child"

    with _peers.process([sys.executable, "-c", FAMILY, str(told)]) as held:
        until(lambda: told.exists() and told.read_text().endswith("\n"), what="the child lives")
        child = psutil.Process(int(told.read_text()))
        assert not ended(child)

    assert held.returncode is not None
    until(lambda: ended(child), what="the child has ended")


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or only waits to be reaped."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_peer_whose_installer_fails_is_absent_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _peers

    monkeypatch.setattr(_peers, "HOME", tmp_path / "home")
    monkeypatch.setattr(_peers, "HERE", tmp_path / "bench")
    installer = tmp_path / "python"
    installer.write_text("#!/bin/sh\necho first >&2\necho 'no network' >&2\nexit 1\n")
    installer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(installer))

    with pytest.raises(_peers.Absent, match="python said: no network"):
        _peers.environment("rq")

    assert not (tmp_path / "home/rq/.lock").exists()

"""The keeper with real small processes as roles."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from paddock.app.data import DataDir, Locked
from paddock.app.keeper import ALREADY_RUNS, Keeper, Restarts, Role, RoleFailed, Unwell, last_lines, spawn
from paddock.testing.wait import soon

LIVES = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
from pathlib import Path
from paddock.app.data import DataDir, Locked
name, folder = sys.argv[1:3]
try:
    with DataDir.open(Path(folder)).claim(name):
        signal.sigwait({signal.SIGTERM})
        with open(Path(folder) / "ended", "a") as file:
            file.write(name + "\\n")
except Locked:
    sys.exit(75)
"""
DIES = "import sys; print('the reason why', flush=True); sys.exit(3)"
STUBBORN = LIVES.replace("signal.sigwait({signal.SIGTERM})", "signal.sigwait({signal.SIGUSR1})")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = DataDir.open(tmp_path / "data", create=True)
    yield data
    for path in data.run.glob("*.json"):
        if path.stem != "keeper" and (running := data.running(path.stem)):
            os.kill(running.pid, signal.SIGKILL)


def role(data: DataDir, name: str, script: str = LIVES, *, stop_s_max: float = 10.0, ready_s_max: float = 30.0) -> Role:
    async def start() -> int:
        return spawn([sys.executable, "-c", script, name, str(data.path)], data.log_file(name))

    async def waits_for() -> str:
        return "" if data.running(name) else "its claim"

    return Role(name=name, spawn=start, waits_for=waits_for, stop_s_max=stop_s_max, ready_s_max=ready_s_max)


async def until(what: Callable[[], object], limit_s: float = 30.0) -> None:
    await soon(what, what="what happens in other processes", limit_s=limit_s)


def pid(data: DataDir, name: str) -> int:
    running = data.running(name)
    return running.pid if running else 0


async def kept(keeper: Keeper, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` while the keeper keeps."""
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.run(), name="keeper")
        try:
            await work()
        finally:
            keeper.ask_stop()


async def test_roles_start_in_order_and_stop_in_the_reverse_order(data: DataDir) -> None:
    said: list[str] = []
    keeper = Keeper(data, [role(data, "first"), role(data, "second")], said.append)
    await keeper.start()
    assert [line.split()[0] for line in said] == ["first", "second"]
    assert keeper.marker.exists()
    assert await keeper.stop()
    assert (data.path / "ended").read_text().split() == ["second", "first"]
    assert not keeper.marker.exists()


async def test_a_role_that_dies_is_started_again_and_it_is_said(data: DataDir) -> None:
    said: list[str] = []
    keeper = Keeper(data, [role(data, "node")], said.append)
    await keeper.start()
    before = pid(data, "node")

    async def work() -> None:
        os.kill(before, signal.SIGKILL)
        await until(lambda: pid(data, "node") not in (0, before) and said[-1].startswith("node is ready"))

    await kept(keeper, work)
    assert any(f"node (pid {before}) ended: killed by SIGKILL; starting it again" in line for line in said)
    await keeper.stop()


@pytest.mark.parametrize("sure", [True, False])
async def test_a_role_that_runs_but_does_not_work_is_started_again(
    data: DataDir, monkeypatch: pytest.MonkeyPatch, sure: bool
) -> None:
    monkeypatch.setattr("paddock.app.keeper.UNWELL_EVERY_S", 0.05)
    said: list[str] = []
    sick: list[Unwell] = []
    asked: list[None] = []

    async def unwell() -> Unwell | None:
        asked.append(None)
        return sick[0] if sick else None

    keeper = Keeper(data, [dataclasses.replace(role(data, "fabric"), unwell=unwell)], said.append)
    await keeper.start()
    first = pid(data, "fabric")
    asked.clear()
    sick.append(Unwell("full", sure))

    async def work() -> None:
        await until(lambda: any("does not work (full)" in line for line in said))
        assert (len(asked) == 1) is sure
        sick.clear()
        await until(lambda: pid(data, "fabric") not in (0, first))
        keeper.ask_stop()

    await kept(keeper, work)
    await keeper.stop()


@pytest.mark.parametrize("sure", [True, False])
async def test_a_role_that_surely_does_not_work_is_not_waited_for(
    data: DataDir, monkeypatch: pytest.MonkeyPatch, sure: bool
) -> None:
    """As a broker that was started while its disk was full: it takes nothing, also when there is space again."""
    monkeypatch.setattr("paddock.app.keeper.UNWELL_EVERY_S", 0.05)
    said: list[str] = []

    async def unwell() -> Unwell | None:
        return Unwell("full", sure)

    async def never() -> str:
        return "a write"

    starting = dataclasses.replace(role(data, "fabric", ready_s_max=2.0), unwell=unwell, waits_for=never)
    keeper = Keeper(data, [starting], said.append)
    with pytest.raises(RoleFailed, match="ended before it was ready" if sure else "is not ready after 2 s"):
        await keeper.start()
    assert any("does not work (full)" in line for line in said) is sure
    assert pid(data, "fabric") == 0


async def test_a_crash_loop_is_said_and_where_its_log_is(data: DataDir) -> None:
    said: list[str] = []
    good = role(data, "node")
    keeper = Keeper(data, [good], said.append, restarts=Restarts(max=2, delay_s_min=0.001, delay_s_max=0.002))
    await keeper.start()
    keeper.roles = [role(data, "node", DIES)]

    async def work() -> None:
        os.kill(pid(data, "node"), signal.SIGKILL)
        await until(lambda: any("crash loop" in line for line in said))

    await kept(keeper, work)
    assert any("the reason why" in line and "exit code 3" in line for line in said)
    assert any(str(data.log_file("node")) in line for line in said if "crash loop" in line)
    await keeper.stop()


async def test_a_role_that_does_not_come_up_is_told_with_the_end_of_its_log_and_nothing_is_left(data: DataDir) -> None:
    data.log_file("node").write_text("of the day before\n")
    keeper = Keeper(data, [role(data, "fabric"), role(data, "node", DIES)], lambda _: None)
    with pytest.raises(RoleFailed, match=r"(?s)node ended before it was ready: exit code 3.*the reason why") as told:
        await keeper.start()
    assert "of the day before" not in told.value.message
    assert data.running("fabric") is None
    assert not keeper.marker.exists()


async def test_a_role_that_ends_while_the_next_one_waits_for_it_is_told(data: DataDir) -> None:
    async def kill_the_node() -> str:
        if number := pid(data, "node"):
            os.kill(number, signal.SIGKILL)
        return "a node"

    server = Role(name="server", spawn=role(data, "server").spawn, waits_for=kill_the_node)
    keeper = Keeper(data, [role(data, "node"), server], lambda _: None)
    with pytest.raises(RoleFailed, match="node ended at its start: killed by SIGKILL"):
        await keeper.start()
    assert data.running("server") is None


async def test_a_role_that_is_never_ready_is_given_up_after_its_limit(data: DataDir) -> None:
    async def never() -> str:
        return "good weather"

    slow = role(data, "node", ready_s_max=0.2)
    slow = Role(name="node", spawn=slow.spawn, waits_for=never, ready_s_max=0.2)
    with pytest.raises(RoleFailed, match=r"not ready after 0 s: it waits for good weather"):
        await Keeper(data, [slow], lambda _: None).start()
    assert data.running("node") is None


async def test_what_runs_is_adopted_and_not_started_twice(data: DataDir) -> None:
    first = Keeper(data, [role(data, "node")], lambda _: None)
    await first.start()
    first.close()
    before = pid(data, "node")
    said: list[str] = []
    second = Keeper(data, [role(data, "node")], said.append)
    await second.start()
    assert pid(data, "node") == before
    assert said[0] == f"node runs already (pid {before})"
    await second.stop()


async def test_a_second_process_of_a_role_yields_and_the_first_is_adopted(data: DataDir) -> None:
    """The keeper was killed between the start of a role and its claim; the next one starts it, too."""
    first = role(data, "node")
    number = await first.spawn()
    await until(lambda: data.running("node"))
    card = data.run / "node.json"
    card.rename(data.run / "hidden")
    late = f"import os; os.rename({str(data.run / 'hidden')!r}, {str(card)!r}); raise SystemExit({ALREADY_RUNS})"
    said: list[str] = []
    keeper = Keeper(data, [role(data, "node", late)], said.append)
    await keeper.start()
    assert said == [f"node is ready (pid {number})"]
    await keeper.stop()


async def test_a_role_that_ignores_the_stop_is_killed_after_its_limit_and_it_is_said(data: DataDir) -> None:
    said: list[str] = []
    keeper = Keeper(data, [role(data, "node", STUBBORN, stop_s_max=0.3)], said.append)
    await keeper.start()
    assert not await keeper.stop()
    assert said[-1] == "node did not stop in 0 s: killed"
    assert data.running("node") is None


async def test_a_stop_during_the_start_ends_what_was_started(data: DataDir) -> None:
    async def never() -> str:
        keeper.ask_stop()
        return "the end of time"

    first = role(data, "fabric")
    keeper = Keeper(data, [first, Role(name="node", spawn=role(data, "node").spawn, waits_for=never)], lambda _: None)
    with pytest.raises(RoleFailed, match="stopped while node was starting"):
        await keeper.start()
    assert data.running("fabric") is None
    assert data.running("node") is None


KEEPS = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_keeper import role
from paddock.app.data import DataDir
from paddock.app.keeper import Keeper
async def main():
    data = DataDir.open(Path(sys.argv[1]))
    with data.keep():
        keeper = Keeper(data, [role(data, "fabric"), role(data, "node")], lambda text: None)
        await keeper.start()
        print("kept", flush=True)
        await keeper.run()
asyncio.run(main())
"""


async def test_the_roles_outlive_a_killed_keeper_and_the_next_one_takes_over(data: DataDir) -> None:
    command = [sys.executable, "-c", KEEPS, str(data.path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as old:  # noqa: ASYNC220 - it is to be killed
        assert old.stdout is not None
        assert await asyncio.to_thread(old.stdout.readline) == "kept\n"
        with pytest.raises(Locked, match=f"process {old.pid}"), data.keep():
            pass
        before = pid(data, "fabric"), pid(data, "node")
        old.kill()
    assert (pid(data, "fabric"), pid(data, "node")) == before
    with data.keep():
        keeper = Keeper(data, [role(data, "fabric"), role(data, "node")], lambda _: None)
        await keeper.start()
        assert (pid(data, "fabric"), pid(data, "node")) == before

        async def work() -> None:
            os.kill(before[1], signal.SIGKILL)
            await until(lambda: pid(data, "node") not in (0, before[1]))

        await kept(keeper, work)
        assert await keeper.stop()


def test_the_back_off_doubles_within_the_window_and_forgets_beyond_it() -> None:
    restarts = Restarts(max=3, window_s=60.0, delay_s_min=0.5, delay_s_max=4.0)
    assert [restarts.delay_s([10.0] * count, 10.0) for count in (1, 2, 3, 4, 5, 6, 7)] == [0, 0.5, 1, 2, 4, 4, 4]
    assert restarts.delay_s([10.0] * 6 + [80.0], 80.0) == 0.0
    assert restarts.is_loop([1.0, 2.0, 3.0, 4.0], 5.0)
    assert not restarts.is_loop([1.0, 2.0, 3.0], 5.0)


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("\n".join(str(i) for i in range(100_000)))
    assert last_lines(log, 2) == ["99998", "99999"]
    assert last_lines(tmp_path / "none", 2) == []
    assert last_lines(log, 9, since=log.stat().st_size - 12) == ["99998", "99999"]
    assert last_lines(log, 1, since=log.stat().st_size + 1) == ["99999"], "it was set aside meanwhile"


def test_a_role_gets_a_session_of_its_own_and_a_large_log_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddock.app.keeper.LOG_BYTES_MAX", 3)
    log = tmp_path / "x.log"
    log.write_text("old lines")
    script = "import os, json; print(json.dumps([os.getsid(0), os.getpid()]))"
    child = spawn([sys.executable, "-c", script], log)
    os.waitpid(child, 0)
    assert json.loads(log.read_text()) == [child, child]
    assert (tmp_path / "x.log.1").read_text() == "old lines"


def test_what_is_spawned_holds_nothing_that_its_starter_held(tmp_path: Path) -> None:
    """A lock (`flock FILE paddock up --detach`) or a pipe would be held for as long as it runs."""
    script = "import os; print(sorted(os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')))"
    with (tmp_path / "lock").open("w") as lock, (tmp_path / "report").open("w") as report:
        for file in (lock, report):
            os.set_inheritable(file.fileno(), True)
        child = spawn([sys.executable, "-c", script], tmp_path / "log", kept=[report.fileno()])
        assert os.waitpid(child, 0)[1] == 0
    held = (tmp_path / "log").read_text()
    assert str(tmp_path / "report") in held
    assert str(tmp_path / "lock") not in held


def test_what_is_inherited_above_the_limit_of_open_files_hinders_nobody(tmp_path: Path) -> None:
    """As a shell leaves it that had opened files before its `ulimit -n`."""
    script = f"""
import os, resource, sys
from pathlib import Path
from paddock.app.keeper import spawn
os.dup2(0, 60)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
os.waitpid(spawn(["/bin/sh", "-c", "ls /proc/self/fd"], Path({str(tmp_path / "log")!r})), 0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3"], "the last is that of ls"

"""What every runtime promises. Derive a test class from `RuntimeContract` and say how its scripts are made.

class TestMine(RuntimeContract):
    def world(self, folder: Path) -> RuntimeWorld: ...
"""

# ruff: noqa: S101 - this is a test suite that is handed out as part of the package; its asserts are its point

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from paddock.model.agent import Exit
from paddock.model.errors import TemplateBroken
from paddock.model.fleet import FleetSpec
from paddock.model.policy import OF_THE_MACHINE, Action
from paddock.ports.runtime import Launch, Live, Renewing, Runtime

LIMIT_S = 30.0


class RuntimeWorld(Protocol):
    """How one kind of runtime is made, and specs for what its agents do."""

    def runtime(self) -> Runtime:
        """A runtime on this host; each call gives another one."""
        ...

    def spec(self, script: str) -> FleetSpec:
        """`exit 3`, `print hello`, `run`, `deaf` (ignores SIGTERM), `tree` (with a child and its child; their pids in
        the file `tree`), `broken`."""
        ...

    def children(self, live: Live, folder: Path) -> int:
        """How many processes that the agent started are alive."""
        ...

    def started(self, live: Live, folder: Path) -> bool:
        """Whether its script has begun: signal handlers are set, children are there."""
        ...


class RuntimeContract:
    def world(self, folder: Path) -> RuntimeWorld:
        raise NotImplementedError  # abstract: each runtime under test brings its own

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        return Bench(self.world(tmp_path), tmp_path)

    async def test_an_exit_code_is_told(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("exit 3")
            assert await bench.ended(live) == Exit(code=3)

    async def test_a_signal_ends_it_and_is_told(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("run")
            live.stop(signal.SIGTERM)
            assert await bench.ended(live) == Exit(signal=signal.SIGTERM)

    async def test_what_ignores_sigterm_is_killed(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("deaf")
            await bench.until(lambda: bench.world.started(live, bench.folder), "it is deaf")
            live.stop(signal.SIGTERM)
            live.kill()
            assert await bench.ended(live) == Exit(signal=signal.SIGKILL)

    async def test_a_kill_takes_all_that_it_started(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("tree")
            await bench.until(lambda: bench.world.children(live, bench.folder) == 2, "two children")
            live.kill()
            await bench.ended(live)
            await bench.until(lambda: bench.world.children(live, bench.folder) == 0, "no children")

    async def test_what_it_leaves_behind_when_it_dies_is_ended_too(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("tree")
            await bench.until(lambda: bench.world.children(live, bench.folder) == 2, "two children")
            live.stop(signal.SIGKILL)
            await bench.ended(live)
            await bench.until(lambda: bench.world.children(live, bench.folder) == 0, "no children")

    async def test_its_output_is_in_its_log(self, bench: Bench) -> None:
        async with bench:
            await bench.start("print hello")
            log = bench.folder / "agent-1.log"
            await bench.until(lambda: log.exists() and "hello" in log.read_text(), "its output")
            assert log.stat().st_mode & 0o077 == 0

    async def test_its_end_can_be_awaited_twice_and_later(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("exit 4")
            both = await asyncio.gather(bench.ended(live), bench.ended(live))
            assert set(both) == {Exit(code=4)}
            assert await bench.ended(live) == Exit(code=4)
            live.stop(signal.SIGTERM)
            live.kill()

    async def test_it_is_found_again_when_the_runtime_was_dropped(self, bench: Bench) -> None:
        async with bench:
            handle = (await bench.start("run")).handle
            await bench.renew()
            live = await bench.runtime.adopt(handle)
            assert live is not None
            assert live.handle == handle
            live.stop(signal.SIGTERM)
            assert await bench.ended(live) in (Exit(signal=signal.SIGTERM), Exit())

    async def test_a_pid_that_was_given_to_another_is_not_adopted(self, bench: Bench) -> None:
        async with bench:
            handle = (await bench.start("run")).handle
            other = msgspec.structs.replace(handle, start_ticks=handle.start_ticks + 1)
            assert await bench.runtime.adopt(other) is None

    async def test_what_was_started_before_the_host_was_is_not_adopted(self, bench: Bench) -> None:
        """After that, pids and ticks begin anew: both may be the same by chance."""
        async with bench:
            handle = (await bench.start("run")).handle
            other = msgspec.structs.replace(handle, boot="an earlier one")
            assert await bench.runtime.adopt(other) is None

    async def test_what_has_ended_is_not_adopted(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("exit 0")
            await bench.ended(live)
            assert await bench.runtime.adopt(live.handle) is None

    async def test_a_broken_template_is_refused_with_one_sentence(self, bench: Bench) -> None:
        async with bench:
            with pytest.raises(TemplateBroken) as caught:
                await bench.start("broken")
            assert "\n" not in caught.value.message
            with pytest.raises(TemplateBroken):
                await bench.runtime.check(bench.world.spec("broken"))

    async def test_a_good_template_passes_the_check(self, bench: Bench) -> None:
        async with bench:
            await bench.runtime.check(bench.world.spec("run"))

    async def test_fifty_starts_at_once_give_fifty_agents(self, bench: Bench) -> None:
        async with bench:
            lives = await asyncio.gather(*(bench.start("run") for _ in range(50)))
            assert len({live.handle.pid for live in lives}) == 50
            for live in lives:
                live.kill()
            ends = await asyncio.gather(*(bench.ended(live) for live in lives))
            assert set(ends) == {Exit(signal=signal.SIGKILL)}

    async def test_closing_the_runtime_stops_no_agent(self, bench: Bench) -> None:
        async with bench:
            live = await bench.start("run")
            await bench.renew()
            assert await bench.runtime.adopt(live.handle) is not None

    async def test_it_names_the_recovery_actions_that_it_offers_once_each_the_mildest_first(self, bench: Bench) -> None:
        async with bench:
            actions = list(bench.runtime.actions)
            assert actions == [action for action in Action if action in actions]
            assert Action.RESTART in actions
            assert not OF_THE_MACHINE & set(actions)

    async def test_after_a_renewal_what_runs_goes_on_and_what_starts_starts(self, bench: Bench) -> None:
        async with bench:
            before = await bench.start("run")
            if isinstance(bench.runtime, Renewing):
                bench.runtime.renew(bench.world.spec("run"), before.handle.epoch)
                bench.runtime.renew(bench.world.spec("run"), before.handle.epoch)
            after = await bench.start("run")
            for live in (before, after):
                live.stop(signal.SIGTERM)
                assert await bench.ended(live) == Exit(signal=signal.SIGTERM)


class Bench:
    """One host with one runtime at a time; what it started is ended with it."""

    def __init__(self, world: RuntimeWorld, folder: Path) -> None:
        self.world, self.folder = world, folder
        self._started: list[Live] = []
        self._epoch = 0

    async def __aenter__(self) -> Bench:
        self.runtime = self.world.runtime()
        return self

    async def __aexit__(self, *error: object) -> None:
        for live in self._started:
            again = await self.runtime.adopt(live.handle)
            if again is not None:
                again.kill()
                await self.ended(again)
        await self.runtime.close()

    async def renew(self) -> None:
        """The node restarts: another runtime takes over."""
        await self.runtime.close()
        self.runtime = self.world.runtime()

    async def start(self, script: str) -> Live:
        self._epoch += 1
        folder = self.folder / "agents" / str(self._epoch)
        folder.mkdir(mode=0o700, parents=True)
        launch = Launch(
            spec=self.world.spec(script),
            name=str(self._epoch),
            epoch=self._epoch,
            folder=str(folder),
            log_path=str(self.folder / f"agent-{self._epoch}.log"),
            env={"PADDOCK_AGENT": f"lab/{self._epoch}", "SCRIPT": script, "TREE": str(self.folder / "tree")},
        )
        live = await self.runtime.start(launch)
        self._started.append(live)
        return live

    async def ended(self, live: Live) -> Exit:
        async with asyncio.timeout(LIMIT_S):
            return await live.wait()

    async def until(self, look: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    if look():
                        return
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not within {LIMIT_S:g} s: {what}") from None


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def tree_alive(folder: Path) -> int:
    """How many of the pids in the file `tree` run; 0 while it is not complete."""
    try:
        pids = [int(word) for word in (folder / "tree").read_text().split()]
    except FileNotFoundError:
        return 0
    return sum(alive(pid) for pid in pids if pid != os.getpid())

"""The simulated world's own promises: time, processes, leaks, replays."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from paddock.testing.clock import VirtualClock
from paddock.testing.loop import (
    Deadlock,
    LeakedTasks,
    Process,
    SimulationError,
    VirtualLoop,
    current_process,
    run,
    settle,
    simulate,
)


def test_an_hour_passes_as_soon_as_nothing_can_run() -> None:
    async def main() -> tuple[float, float, float]:
        clock = VirtualClock()
        before = clock.now()
        await clock.sleep(3600.0)
        return before, clock.now(), clock.monotonic()

    before, after, monotonic = run(main)
    assert after - before == pytest.approx(3600.0)
    assert monotonic == pytest.approx(3600.0)


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not() -> None:
    async def main() -> tuple[float, float]:
        clock = VirtualClock(start=1000.0)
        clock.jump(-500.0)
        return clock.now(), clock.monotonic()

    assert run(main) == (500.0, 0.0)


def test_timers_fire_in_their_order_whoever_set_them_first() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        loop = asyncio.get_running_loop()
        for delay_s, name in ((2.0, "late"), (1.0, "early"), (1.5, "middle")):
            loop.call_later(delay_s, order.append, name)
        await asyncio.sleep(3.0)
        return order

    assert run(main) == ["early", "middle", "late"]


def test_a_deadlock_is_told_with_where_everybody_waits() -> None:
    async def main() -> None:
        asyncio.current_task().set_name("the-one-that-waits")  # type: ignore[union-attr]  # we are in a task
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="the-one-that-waits"):
        run(main)


def test_a_world_that_never_ends_is_stopped() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110 - that is the case under test
            await asyncio.sleep(3600.0)

    with pytest.raises(SimulationError, match="still running"):
        run(main)


def test_tasks_that_are_left_behind_are_told_by_name() -> None:
    async def main() -> None:
        main.task = asyncio.create_task(asyncio.sleep(1.0), name="forgotten")  # type: ignore[attr-defined]  # keep it

    with pytest.raises(LeakedTasks, match="forgotten"):
        run(main)


def test_work_for_a_thread_runs_in_the_loop_so_that_order_stays() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        work = asyncio.to_thread(order.append, "in thread")
        await asyncio.gather(work, asyncio.to_thread(order.append, "second"))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return order

    assert run(main) == ["in thread", "second"]


def test_a_killed_process_runs_no_finally() -> None:
    async def main() -> list[str]:
        said: list[str] = []
        process = Process("victim")

        async def live() -> None:
            try:
                await asyncio.sleep(10.0)
            finally:
                said.append("goodbye")

        process.spawn(live(), "life")
        await asyncio.sleep(1.0)
        process.kill()
        await asyncio.sleep(60.0)
        return list(said)

    assert run(main) == []


def test_a_process_can_be_killed_at_each_of_its_awaits() -> None:
    def steps_done(kill_after: int) -> int:
        async def main() -> int:
            done = 0
            process = Process("victim")

            async def live() -> None:
                nonlocal done
                for _ in range(5):
                    await asyncio.sleep(0)
                    done += 1

            process.spawn(live(), "life")
            process.kill_after(kill_after)
            await asyncio.sleep(1.0)
            return done

        return run(main)

    assert sorted({steps_done(n) for n in range(10)}) == [0, 1, 2, 3, 4, 5]


def test_what_a_process_starts_dies_with_it_and_what_others_start_does_not() -> None:
    async def main() -> list[str]:
        ticks: list[str] = []

        async def tick(name: str) -> None:
            for _ in range(3):
                await asyncio.sleep(1.0)
                ticks.append(name)

        async def parent() -> None:
            child = asyncio.create_task(tick("child"), name="child")
            asyncio.get_running_loop().call_later(2.0, ticks.append, "timer")
            await child

        process = Process("parent")
        process.spawn(parent(), "main")
        other = asyncio.create_task(tick("other"), name="other")
        await asyncio.sleep(1.5)
        process.kill()
        await other
        return sorted(ticks)

    assert run(main) == ["child", "other", "other", "other"]


def test_signals_reach_the_handler_of_the_process_or_kill_it() -> None:
    async def main() -> tuple[list[str], bool, bool]:
        heard: list[str] = []

        async def polite() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, "term")
            await asyncio.sleep(10.0)

        async def rude() -> None:
            await asyncio.sleep(10.0)

        one, two = Process("polite"), Process("rude")
        one.spawn(polite(), "main")
        two.spawn(rude(), "main")
        await asyncio.sleep(1.0)
        one.signal(signal.SIGTERM)
        two.signal(signal.SIGTERM)
        await asyncio.sleep(1.0)
        alive = one.alive, two.alive
        one.kill()
        return heard, *alive

    assert run(main) == (["term"], True, False)


def test_the_sockets_of_a_killed_process_hang_up(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def main() -> tuple[bytes, bool]:
        async def serve() -> None:
            await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, path)
            await asyncio.sleep(60.0)

        server = Process("server")
        server.spawn(serve(), "main")
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as line:
            line.setblocking(False)
            await loop.sock_connect(line, path)
            await asyncio.sleep(0.1)
            server.kill()
            ended = await loop.sock_recv(line, 10)
        with socket.socket(socket.AF_UNIX) as again:
            again.setblocking(False)
            try:
                await loop.sock_connect(again, path)
            except ConnectionRefusedError:
                return ended, True
            return ended, False

    assert run(main) == (b"", True)


def test_code_knows_its_process() -> None:
    async def main() -> tuple[str, bool]:
        process = Process("me")

        async def name() -> str:
            own = current_process()
            return own.name if own else ""

        found = await process.spawn(name(), "name")
        assert isinstance(asyncio.get_running_loop(), VirtualLoop)
        return found, current_process() is None

    assert run(main) == ("me", True)


def test_a_failure_says_how_to_see_it_again() -> None:
    async def bad_luck(seed: int) -> None:
        raise ValueError(seed)

    with pytest.raises(ValueError, match="7") as failure:
        simulate(7, bad_luck)
    assert "PADDOCK_SIM_SEED=7" in failure.value.__notes__[0]


def test_settling_waits_for_a_state_and_names_what_did_not_come() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        await settle(lambda: loop.time() > 5.0, limit_s=10.0, what="later")
        at = loop.time()
        with pytest.raises(SimulationError, match="the impossible"):
            await settle(lambda: False, limit_s=1.0, what="the impossible")
        return at

    assert 5.0 < run(main) < 5.2

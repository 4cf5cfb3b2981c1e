"""`up` and `down`: the life of the whole installation on this machine.

up            starts or adopts the roles, applies the manifests, shows the fleets until Ctrl-C, stops all in order
up --detach   the same with a keeper in the background; returns when all is ready, or with the reason why not
up, again     while a keeper runs: applies the manifests there and returns; while it stops: waits, then starts
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.app.data import DataDir
from paddock.cli import show
from paddock.cli.fleets import NotReady, print_plan, raise_problems, read, wanted_fleets
from paddock.cli.session import Session, session
from paddock.model.errors import PaddockError, Refused, Unavailable

if TYPE_CHECKING:
    from paddock.app.keeper import Keeper, Say
    from paddock.cli.client import Api

Sources = list[dict[str, str]]


class Durability(StrEnum):
    ALWAYS = "always"
    INTERVAL = "interval"


def add(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)


def up(
    context: typer.Context,
    manifests: Annotated[list[Path] | None, typer.Argument(metavar="[MANIFEST...]", show_default=False)] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the API listens; 0: a free one.")] = 8000,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when all is ready; run on behind.")] = False,
    durability: Annotated[
        Durability, typer.Option(help="always: accepted is on disk. interval: a power cut may lose the last second.")
    ] = Durability.ALWAYS,
    wait_s: Annotated[float, typer.Option("--wait-s", min=0, help="How long to wait for agents.")] = 120.0,
) -> None:
    """Start Paddock on this machine and make these manifests live. Ctrl-C stops everything in order."""
    given = session(context)
    if given.url:
        raise Refused("'up' starts Paddock on this machine: leave --url away, or use 'paddock apply' with it")
    sources = read(manifests or [])  # what cannot be read is told before anything starts
    data = DataDir.open(given.data, create=True)
    given = Session(data=data.path, token=given.token)
    if data.stopped_by():
        from paddock.app.machine import wait_stopped

        wait_stopped(data, show.say)
    if keeper := data.running("keeper"):
        server = data.running("server")
        where = f" at {server.url}" if server and server.url else ""
        show.say(f"Paddock runs already for {data.path}{where} (pid {keeper.pid}); 'paddock down' stops it")
        for name in ("port", "durability"):
            if _said(context, name):
                show.warn(f"--{name} counts only when it starts, and is left out: 'paddock down' first")
        with given.api() as api:
            raise_problems(bring(api, sources, wait_s, lambda: False))
    elif detach:
        _detached(given, data, sources, wait_s, port=port, durability=durability)
    else:
        raise typer.Exit(asyncio.run(_foreground(given, data, sources, wait_s, port=port, durability=durability)))


def _said(context: typer.Context, name: str) -> bool:
    """Whether the user gave this option, and not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def bring(api: Api, sources: Sources, wait_s: float, stopped: Callable[[], bool]) -> list[str]:
    """Apply the manifests and wait until their agents are ready; a sentence for each problem."""
    from paddock.cli.ready import wait_fleets

    if not sources:
        return []
    plan = api.post("/api/v1/apply", {"manifests": sources})
    print_plan(plan, show.Form.TABLE)
    return wait_fleets(api, wanted_fleets(plan), limit_s=wait_s, stopped=stopped)


def _address(data: DataDir) -> str:
    running = data.running("server")
    url = running.url if running else "an unknown address"
    return f"Paddock is up at {url} (API documentation: /docs)"


async def _foreground(
    given: Session, data: DataDir, sources: Sources, wait_s: float, *, port: int, durability: str
) -> int:
    from paddock.app import machine
    from paddock.cli.watch import watch

    with data.keep():
        keeper = machine.keeper(data, port=port, durability=durability, say=show.say)
        fresh = not keeper.marker.exists()
        _stop_on_signals(keeper)
        if not await _started(keeper):
            return 1

        async def work() -> None:
            try:
                with given.api() as api:
                    show.say(f"{_address(data)}; Ctrl-C stops it")
                    problems = await asyncio.to_thread(bring, api, sources, wait_s, lambda: keeper.stopping)
                    for problem in problems:
                        show.warn(problem)
                    await watch(api, keeper)
            except PaddockError as error:
                if fresh:
                    raise
                show.say(f"Error: {error.message}")  # what ran before goes on: one bad manifest ends nothing

        return await _keeping(keeper, work)


async def _keeping(keeper: Keeper, work: Callable[[], Awaitable[None]]) -> int:
    """Keep the roles while `work` is done and until a stop is asked for; then stop all. The exit code."""
    failed: list[PaddockError] = []

    async def guarded() -> None:
        try:
            await work()
        except PaddockError as error:
            failed.append(error)
            keeper.ask_stop()

    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.run(), name="keeper")
        group.create_task(guarded(), name="work")
    clean = await keeper.stop()
    show.say("all is stopped" if clean else "all is stopped, not everything in time")
    if failed:
        raise failed[0]
    return 0 if clean else 1


def _stop_on_signals(keeper: Keeper) -> None:
    """SIGHUP keeps its default: a lost terminal is a kill, which leaves everything running."""

    def stop() -> None:
        if keeper.stopping:
            keeper.say("already stopping; agents have their time to end what they hold")
        else:
            with contextlib.suppress(PaddockError):  # such as no space left: then nobody waits for us
                keeper.data.announce("keeper", stopping=True)
        keeper.ask_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


async def _started(keeper: Keeper) -> bool:
    """Start all roles; False when a stop was asked for meanwhile."""
    try:
        await keeper.start()
    except PaddockError:
        if not keeper.stopping:
            raise
        await keeper.stop()
        return False
    return True


def _detached(given: Session, data: DataDir, sources: Sources, wait_s: float, *, port: int, durability: str) -> None:
    from paddock.app.machine import take_down

    fresh = not (data.run / "started").exists()
    launch(data, port=port, durability=durability, say=show.say)
    try:
        with given.api() as api:
            problems = bring(api, sources, wait_s, lambda: False)
    except PaddockError as error:
        if not fresh:
            raise
        asyncio.run(take_down(data, show.say))
        raise NotReady(f"{error.message}; all is stopped again") from error
    show.say(f"{_address(data)}; 'paddock down' stops it")
    raise_problems(problems)


def launch(data: DataDir, *, port: int, durability: str, say: Say) -> None:
    """Start a keeper in the background; return when all roles are ready, else Unavailable with the reason."""
    from paddock.app.keeper import last_lines, spawn
    from paddock.app.machine import role_command

    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    log = data.log_file("keeper")
    logged = log.stat().st_size if log.exists() else 0
    try:
        options = ("--port", str(port), "--durability", durability, "--report-fd", str(write_end))
        pid = spawn(role_command(data, "keeper", *options), log, kept=[write_end])
    finally:
        os.close(write_end)
    try:
        with os.fdopen(read_end, encoding="utf-8") as reports:
            for line in reports:
                told = json.loads(line)
                if "ready" in told:
                    return
                if "error" in told:
                    raise Unavailable(told["error"])
                say(told["say"])
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)  # our own child, not waited for yet: the pid is still its
        raise
    raise Unavailable(f"the keeper ended at its start; see {log}: " + " / ".join(last_lines(log, 3, since=logged)))


async def keep_detached(data: DataDir, *, port: int, durability: str, report_fd: int) -> int:
    """The keeper in the background: reports its start on `report_fd`, then keeps the roles until SIGTERM."""
    from paddock.app import machine

    os.set_inheritable(report_fd, False)
    reports = os.fdopen(report_fd, "w", encoding="utf-8")

    def tell(**report: Any) -> None:
        try:
            if not reports.closed:
                reports.write(json.dumps(report) + "\n")
                reports.flush()
        except OSError:  # who called is gone; the log has it
            reports.close()

    with data.keep():
        try:
            keeper = machine.keeper(data, port=port, durability=durability, say=lambda text: tell(say=text))
            _stop_on_signals(keeper)
            if not await _started(keeper):
                return 1
        except PaddockError as error:
            tell(error=error.message)
            return 1
        tell(ready=True)
        reports.close()
        await keeper.run()
        return 0 if await keeper.stop() else 1


def down(context: typer.Context) -> None:
    """Stop everything of this installation in order: server, agents with their node, fabric."""
    from paddock.app.machine import take_down

    data = DataDir.open(session(context).data)
    if asyncio.run(take_down(data, show.say)):
        show.say(f"Paddock is down for {data.path}")
    else:
        show.say(f"no Paddock is running for {data.path}: nothing to stop")

"""The fork server: a warm image of one template, that forks agents on demand.

    started ──Setup──> imports ──> frozen ──> serving ──its node's end──> exits, its children live on
                          └── broken: says why, exits

One thread, no event loop. A child signs for its own start, in a file beside its folder, and then reports it on the
pipe, before it runs the user's code: so a server that is killed leaves no agent that its node does not know, nor does
one whose node is killed; and a child that cannot report does not run.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from paddock.model.errors import PaddockError
from paddock.model.fleet import FleetSpec
from paddock.runtimes import proc, starts
from paddock.runtimes.python.load import last_line, load
from paddock.runtimes.python.wire import RUN_ENV, RUNNER, Fork, Report, Setup, frames, line

Run = Callable[[Any, dict[str, str], bytes], int]

WARM = ("uvloop", "paddock.fabric.client", "encodings.idna")
"""What the runner imports only when it runs: imported once here, instead of in every child."""
REHEARSAL = "paddock.agent.rehearsal:rehearse"
"""Called once in the image, before the first fork."""

EXIT_NOT_STARTED = 70


class Server:
    """Serves one node on `link` (requests) and `reports` (a pipe's end)."""

    def __init__(self, link: socket.socket, reports: int) -> None:
        self._link = link
        self._reports = reports
        self._requests: dict[int, int] = {}
        """pid → id of the request that it came from"""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        buffer = bytearray()
        while not (first := list(frames(buffer))):
            if not self._read(buffer):
                return
        setup = msgspec.json.decode(first[0], type=Setup)
        spec = msgspec.json.decode(setup.spec, type=FleetSpec)
        try:
            cls, run = load(spec), find_run()
        except PaddockError as error:
            self._say(Report(what="broken", text=error.message))
            return
        settle()
        self._watch_children()
        self._say(Report(what="ready", pid=os.getpid()))
        pending = first[1:]
        while True:
            for data in pending:
                self._fork(msgspec.json.decode(data, type=Fork), spec, run, cls)
            if not self._wait(buffer):
                return
            pending = list(frames(buffer))

    def _watch_children(self) -> None:
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def _wait(self, buffer: bytearray) -> bool:
        """Until there is something to read or to reap; False: the node is gone."""
        link = self._link.fileno()
        ready, _, _ = select.select([link, self._wake_read], [], [])
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
            self._reap()
        return link not in ready or self._read(buffer)

    def _read(self, buffer: bytearray) -> bool:
        try:
            data = self._link.recv(1 << 18)
        except ConnectionError:
            return False
        buffer += data
        return bool(data)

    def _reap(self) -> None:
        """While an ended child is not reaped, its pid still stands for it: kill what is left of its group first."""
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            pid = info.si_pid
            request = self._requests.pop(pid, None)
            if request is not None:
                try:
                    os.killpg(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            status = os.waitpid(pid, 0)[1]
            if request is not None:
                self._say(Report(what="ended", id=request, pid=pid, status=status))

    def _fork(self, fork: Fork, spec: FleetSpec, run: Run, cls: type) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._say(Report(what="failed", id=fork.id, text=f"fork: {error.strerror}"))
            return
        if pid == 0:
            self._child(fork, spec, run, cls)
        self._requests[pid] = fork.id

    def _child(self, fork: Fork, spec: FleetSpec, run: Run, cls: type) -> NoReturn:
        """In the new process. Never returns, whatever happens."""
        try:
            try:
                self._become(fork, spec)
                start = starts.of_this_process(fork.epoch)
                starts.write(fork.folder, start)
                self._say(Report(what="started", id=fork.id, pid=start.pid, ticks=start.ticks))
            except BaseException as error:
                self._say(Report(what="failed", id=fork.id, text=last_line(error)))
                os._exit(EXIT_NOT_STARTED)
            os.close(self._reports)
            code = run(cls, fork.env, fork.spec)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    pass
        os._exit(code & 0xFF)

    def _become(self, fork: Fork, spec: FleetSpec) -> None:
        """Make the copy of the server an agent: session, signals, files, folder, environment."""
        os.setsid()
        proc.offer_to_oom_killer()
        os.umask(0o077)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._link.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        log = os.open(fork.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.chdir(spec.cwd or fork.folder)
        os.environ.clear()
        os.environ.update(fork.env)
        sys.argv = [fork.agent]
        name_process(fork.agent)
        if "numpy.random" in sys.modules:
            # The standard library's own generator reseeds itself after a fork; numpy's global one does not.
            sys.modules["numpy.random"].seed()
        gc.set_threshold(5_000)  # a task makes some fifty objects, and they go with it
        gc.enable()

    def _say(self, report: Report) -> None:
        os.write(self._reports, line(report))


def find_run() -> Run:
    """What runs an agent in the child."""
    run: Run = _find(os.environ.get(RUN_ENV, RUNNER))
    for name in WARM:
        importlib.import_module(name)
    return run


def _find(text: str) -> Any:
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)


def settle() -> None:
    """Make the image as it will be forked: what agents would write to in it is written now, so that they share it."""
    try:
        _find(REHEARSAL)()
    except Exception as error:
        # Agents do without: they then take more memory, and longer to start.
        print(f"fork server: the rehearsal failed: {last_line(error)}", file=sys.stderr)
    gc.freeze()


def name_process(agent: str) -> None:
    """Let `ps` and `top` show the agent's name; the kernel keeps 15 characters."""
    with open("/proc/self/comm", "w") as file:
        file.write(agent[-15:])


def main() -> None:
    link, reports = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(link, False)
    os.set_inheritable(reports, False)
    gc.disable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # typed as TextIO, is a TextIOWrapper
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        Server(socket.socket(fileno=link), reports).serve()
    except BrokenPipeError:
        pass  # the node is gone; our children need nobody
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

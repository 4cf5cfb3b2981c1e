"""Processes of this host, for all runtimes: found again for ever by (pid, start ticks, boot), awaited by pidfd.

    spawned ─┐
    adopted ─┴─> watched ──pidfd readable──> status read ──> its group killed ──> reaped ──> ended

No thread and no timer per process: one pidfd each, in the event loop's own selector.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pwd
import resource
import signal
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence

import msgspec

from paddock.fabric.boot import is_this_boot
from paddock.model.agent import Exit
from paddock.model.errors import TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec
from paddock.ports.runtime import Handle, Launch, Usage
from paddock.runtimes import proc

_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO_BYTES = 64
_PIDFD_GET_INFO = 0xC0000000 | _PIDFD_INFO_BYTES << 16 | 0xFF << 8 | 11
"""_IOWR(0xFF, 11, struct pidfd_info) of linux/pidfd.h; tells the exit status of others' children since Linux 6.15."""

INHERITED = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""All that an agent's environment takes from its node's, with LC_*."""

ZOMBIE_RETRY_S = 0.02
ZOMBIE_RETRIES_MAX = 10

_ours: set[int] = set()
"""Children that are watched; `reap_orphans` leaves them to who watches them."""


# --- what the system knows of a process


def _stat(pid: int) -> list[bytes]:
    """Fields of /proc/<pid>/stat from the third on (`state` is 0); empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def first_ticks(pid: int) -> int:
    """When our own child started, even if it has ended: until it is reaped its pid stands for it."""
    return int(_stat(pid)[19])


def start_ticks(pid: int) -> int | None:
    """When it started, in clock ticks since boot; None when it is gone or has ended."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in (b"Z", b"X") else None


def lives(pid: int, ticks: int, boot: str) -> bool:
    """Whether that very process still runs."""
    return is_this_boot(boot) and start_ticks(pid) == ticks


def exit_of(status: int) -> Exit:
    """From a wait status."""
    return Exit(signal=os.WTERMSIG(status)) if os.WIFSIGNALED(status) else Exit(code=os.WEXITSTATUS(status))


def open_pidfd(pid: int, ticks: int) -> int | None:
    """A pidfd of exactly this process, or None when it has ended or its pid was given to another."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise Unavailable(f"process {pid} cannot be watched: {error.strerror}") from error
    if start_ticks(pid) != ticks:
        os.close(fd)
        return None
    return fd


def _exit_by_pidfd(fd: int) -> Exit | None:
    """Exit status of a process that its parent has reaped, where the kernel keeps it."""
    buffer = bytearray(struct.pack("=Q", _PIDFD_INFO_EXIT).ljust(_PIDFD_INFO_BYTES, b"\0"))
    try:
        fcntl.ioctl(fd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    mask = struct.unpack_from("=Q", buffer)[0]
    return exit_of(struct.unpack_from("=i", buffer, 60)[0] & 0xFFFF) if mask & _PIDFD_INFO_EXIT else None


def _exit_by_stat(pid: int) -> Exit | None:
    """Exit status of a zombie that is not our child."""
    return exit_of(int(fields[49])) if len(fields := _stat(pid)) > 49 and fields[0] == b"Z" else None


def kill_group(pid: int) -> None:
    """SIGKILL to all that is left of the group that `pid` leads or led."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def reap_child(pid: int) -> Exit | None:
    """Take in our ended child, its group killed first, while its pid still stands for it; None: not our child, or
    not ended."""
    try:
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        kill_group(pid)
        return exit_of(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def watched() -> frozenset[int]:
    """Pids of what is watched at this moment; may be asked from any thread."""
    return frozenset(_ours)


def reap_orphans() -> int:
    """Take in ended children that nobody watches: what agents left behind comes to the node, their subreaper."""
    count = 0
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return count
        if info is None or info.si_pid in _ours:
            return count
        os.waitpid(info.si_pid, 0)
        count += 1


class Process:
    """One watched process: `paddock.ports.runtime.Live`. Made in the event loop that then watches it."""

    def __init__(self, handle: Handle, pidfd: int, *, watch: bool = True) -> None:
        self._handle = handle
        self._fd = pidfd
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Exit] = self._loop.create_future()
        self._retries = 0
        self._watched = False
        self.on_end: Callable[[], None] = lambda: None
        if watch:
            self.watch()

    @property
    def handle(self) -> Handle:
        return self._handle

    @property
    def blocked(self) -> bool:
        return _stat(self._handle.pid)[:1] == [b"D"]

    @property
    def ended(self) -> bool:
        return self._ended.done()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._ended)

    def stop(self, number: int) -> None:
        if self._fd < 0:
            return
        if _stat(self._handle.pid)[:1] == [b"T"]:
            number = signal.SIGKILL  # of any other it would never hear
        try:
            _pidfd_send(self._fd, number)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        self.stop(signal.SIGKILL)
        if self._fd >= 0:
            kill_group(self._handle.pid)

    def usage(self) -> Usage | None:
        return proc.usage(self._handle.pid, self._handle.start_ticks)

    def watch(self) -> None:
        """See its end by ourselves, instead of being told of it. Without a pidfd it had ended when we looked."""
        if self._fd < 0:
            self.end(Exit())
        elif not self._watched:
            self._watched = True
            _ours.add(self._handle.pid)
            self._loop.add_reader(self._fd, self._look)

    def end(self, exit: Exit) -> None:
        """It has ended like this; its group is gone and it is reaped."""
        self._forget()
        if not self._ended.done():
            self._ended.set_result(exit)
            self.on_end()

    def let_go(self) -> None:
        """Watch it no more; it lives on, and who waits for it is cancelled."""
        self._forget()
        if not self._ended.done():
            self._ended.cancel()

    def _look(self) -> None:
        pid = self._handle.pid
        exit = reap_child(pid) or _exit_by_pidfd(self._fd) or _exit_by_stat(pid) or _exit_by_pidfd(self._fd)
        if exit is None and self._retries < ZOMBIE_RETRIES_MAX:
            # Its parent has not reaped it yet, and we may not read its status: look again soon, a few times.
            self._retries += 1
            self._loop.remove_reader(self._fd)
            self._loop.call_later(ZOMBIE_RETRY_S, self._look_again)
            return
        if start_ticks(pid) is None:
            kill_group(pid)
        self.end(exit or Exit())

    def _look_again(self) -> None:
        if self._fd >= 0:
            self._look()

    def _forget(self) -> None:
        if self._fd < 0:
            return
        if self._watched:
            self._loop.remove_reader(self._fd)
            _ours.discard(self._handle.pid)
        os.close(self._fd)
        self._fd = -1


def _pidfd_send(fd: int, number: int) -> None:
    signal.pidfd_send_signal(fd, number)


def adopt(handle: Handle) -> Process | None:
    """Watch a process that was started by somebody else; None when it has ended, or its pid was given to another."""
    fd = open_pidfd(handle.pid, handle.start_ticks) if is_this_boot(handle.boot) else None
    return Process(handle, fd) if fd is not None else None


# --- starting


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A process to spawn, in a session of its own, its output appended to a file."""

    args: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    log_path: str
    user: str = ""
    pass_fds: Sequence[int] = ()
    output: int = -1
    """A descriptor for its output, instead of the file."""


def spawn(command: Command) -> int:
    """Start it and return its pid; `TemplateBroken` or `Unavailable` when it cannot be started."""
    user = find_user(command.user)
    log = open_log(command.log_path) if command.output < 0 else os.dup(command.output)
    try:
        child = subprocess.Popen(
            list(command.args),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(command.env),
            cwd=command.cwd,
            close_fds=True,
            pass_fds=command.pass_fds,
            start_new_session=True,
            umask=0o077,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=os.getgrouplist(command.user, user.pw_gid) if user else None,
        )
    except OSError as error:
        raise _explain(error, f"command {command.args[0]!r}") from error
    except ValueError as error:
        raise TemplateBroken(f"command {command.args[0]!r} cannot be started: {error}") from error
    finally:
        os.close(log)
    # We wait by pidfd. Popen must believe that it has ended, or it would reap the pid behind our back.
    child.returncode = 0
    pid: int = child.pid
    return pid


def _explain(error: OSError, what: str) -> TemplateBroken | Unavailable:
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return Unavailable(f"{what} cannot be started now: {error.strerror}")
    return TemplateBroken(f"{what} cannot be started: {error.strerror}: {error.filename or ''}".rstrip(": "))


def open_log(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"log file {path} cannot be opened: {error.strerror}") from error


def find_user(name: str) -> pwd.struct_passwd | None:
    """The user to run as; None when it is the one we are. `TemplateBroken` when it cannot be."""
    if not name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise TemplateBroken(f"user {name!r} does not exist on this host") from error
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise TemplateBroken(f"user {name!r}: only a node that runs as root can start agents as another user")
    return entry


def check_place(spec: FleetSpec) -> None:
    """`TemplateBroken` when the spec's cwd, user or stop signal do not exist here."""
    if spec.cwd and not os.path.isdir(spec.cwd):
        raise TemplateBroken(f"fleet {spec.name}: cwd {spec.cwd!r} is not a folder of this host")
    find_user(spec.user)
    stop_signal(spec)


def stop_signal(spec: FleetSpec) -> signal.Signals:
    try:
        return signal.Signals[spec.stop_signal]
    except KeyError as error:
        raise TemplateBroken(f"fleet {spec.name}: stop_signal {spec.stop_signal!r} is not a signal") from error


def base_env() -> dict[str, str]:
    """What an agent may inherit from the node's own environment."""
    env = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("LC_")}
    env.setdefault("PATH", os.defpath)
    return env


def launch_env(launch: Launch) -> dict[str, str]:
    """The whole environment of one incarnation."""
    return {**base_env(), **launch.spec.env, **launch.env}


def limit_process(pid: int, *, open_files: int = 0, data_bytes: int = 0) -> None:
    """Set rlimits of a process; one that has ended meanwhile is no error."""
    wanted = ((resource.RLIMIT_NOFILE, open_files), (resource.RLIMIT_DATA, data_bytes))
    for kind, limit in wanted:
        if limit <= 0:
            continue
        try:
            hard = resource.prlimit(pid, kind)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.prlimit(pid, kind, (limit, limit))
        except (ProcessLookupError, PermissionError):
            return


def find_by_env(wanted: Mapping[str, str]) -> int:
    """The pid of a process whose environment at its start had all of `wanted`; 0 when there is none. Of several (a
    shell and what it started) the one that leads its session."""
    found = all_by_env(wanted)
    return next((pid for pid in found if _leads(pid)), found[0] if found else 0)


def all_by_env(wanted: Mapping[str, str]) -> list[int]:
    """The pids of all processes whose environment at their start had all of `wanted`. Reads all of /proc."""
    marks = [f"{name}={value}".encode() for name, value in wanted.items()]
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        have = proc.environment(int(entry))
        if all(mark in have for mark in marks):
            found.append(int(entry))
    return found


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False

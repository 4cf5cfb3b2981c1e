"""The sandbox's supervisor: a script of its own process, standard library only, run by `sandbox.py` as
`python -I -S jail.py <json> <control fd> <status fd>`.

(started) ──isolate──> child runs the code ──ends · time over · agent gone──> all its processes killed ──> status told

It is trusted and stays outside the cage: the code in it cannot talk it out of the time limit. When the agent dies, the
control pipe ends, and the code with it.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_READ = 0b1101  # execute, read file, read dir
LANDLOCK_READ_FILE = 0b0100
LANDLOCK_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights each version of the interface knows; later: 16
UID_FIRST, UID_COUNT = 1_900_000_000, 1 << 20
NOBODY = 65534
PROCESSES_MAX = 32
FILES_MAX = 64
FILE_BYTES_MAX = 64 * 1024 * 1024
EXIT_CANNOT_START = 127
KEEPER_S = 1.0

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    order = json.loads(sys.argv[1])
    control, status = int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(control, False)
    os.set_inheritable(status, False)
    isolation: list[str] = ["limits"]
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    uid = pick_uid(order["folder"])
    namespaces(isolation, root=os.getuid() == 0)
    told, tell = os.pipe()  # the child says here what else it could close, or why it cannot start
    started = time.monotonic()
    ended, end = os.pipe()
    child = os.fork()
    if child == 0:
        keeper(order, uid, tell, end, isolation)
    os.close(tell)
    os.close(end)
    said = read_all(told)
    timed_out = watch(child, control, started + order["timeout_s"])
    duration_s = time.monotonic() - started
    _, code, usage = os.wait4(child, 0)
    kill_the_rest()
    if report := read_all(ended):
        code, cpu_s, memory_kib = json.loads(report)
    else:
        cpu_s, memory_kib = usage.ru_utime + usage.ru_stime, usage.ru_maxrss
    answer = {
        "exit_code": os.WEXITSTATUS(code) if os.WIFEXITED(code) else None,
        "signal": signal.Signals(os.WTERMSIG(code)).name if os.WIFSIGNALED(code) else None,
        "timed_out": timed_out,
        "duration_s": round(duration_s, 4),
        "cpu_s": round(cpu_s, 4),
        "memory_bytes_max": memory_kib * 1024,
        **json.loads(said or b'{"isolation": [], "refused": "the sandboxed process ended before it could start"}'),
    }
    os.write(status, json.dumps(answer).encode())


def pick_uid(folder: str) -> int | None:
    """As root: a user of its own for each run, so that runs cannot touch each other; where such numbers do not exist
    (a container with few), nobody. None: we are not root, there is nothing to drop to."""
    if os.getuid() != 0:
        return None
    for uid in (UID_FIRST + os.getpid() % UID_COUNT, NOBODY):
        try:
            for name in (folder, os.path.join(folder, "main.py")):
                os.chown(name, uid, uid)
        except OSError:
            continue
        return uid
    return None


def namespaces(isolation: list[str], *, root: bool) -> None:
    """No network, no foreign processes in sight, no shared memory with others; each as far as this kernel lets us."""
    own_user = 0 if root else CLONE_NEWUSER
    for flags, names in (
        (CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID, ["network", "ipc", "processes"]),
        (CLONE_NEWNET, ["network"]),
        (CLONE_NEWPID, ["processes"]),
    ):
        if libc.unshare(flags | own_user) == 0:
            isolation.extend(names)
            if own_user:
                isolation.append("user-namespace")
            return


def keeper(order: dict[str, Any], uid: int | None, tell: int, end: int, isolation: list[str]) -> None:
    """The first process of the cage. It only waits: the first process of a namespace does not hear its own signals,
    so the code must not be it. When it ends, the kernel ends all others there. Never returns."""
    code = os.fork()
    if code == 0:
        in_the_cage(order, uid, tell, isolation)
    os.close(tell)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(code, signal.SIGKILL))
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == code:
            os.write(end, json.dumps([status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]).encode())
            os._exit(0)


def in_the_cage(order: dict[str, Any], uid: int | None, tell: int, isolation: list[str]) -> None:
    """Close what can be closed, say what was, and become the code. Never returns."""
    try:
        os.setsid()
        os.chdir(order["folder"])
        limit(order, uid, isolation)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        command = order["commands"][0]
        if uid is not None:
            command = drop(uid, order["commands"], isolation)
        if landlock(order["folder"], order["readable"]):
            isolation.append("files")
        refused = ""
        if not {"user", "files"} & set(isolation) and not order["allow_unisolated"]:
            refused = "this system offers no way to keep the code away from the files of its agent"
        os.write(tell, json.dumps({"isolation": isolation, "refused": refused}).encode())
        if refused:
            os._exit(EXIT_CANNOT_START)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):  # 32 and 33 belong to the C library
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass  # a number this system does not use
        os.closerange(3, FILES_MAX)
        os.execve(command[0], command, order["env"])  # noqa: S606 - that is the job; a list, no shell
    except BaseException as error:  # it must not run on as a second supervisor
        try:
            os.write(tell, json.dumps({"isolation": isolation, "refused": f"{type(error).__name__}: {error}"}).encode())
        except OSError:
            pass  # told already; the code could not be executed, as stderr says
        os.write(2, f"the sandbox could not start the code: {error}\n".encode())
    os._exit(EXIT_CANNOT_START)


def limit(order: dict[str, Any], uid: int | None, isolation: list[str]) -> None:
    cpu_s = math.ceil(order["timeout_s"]) + 1
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: order["memory_bytes"],
        resource.RLIMIT_FSIZE: FILE_BYTES_MAX,
        resource.RLIMIT_NOFILE: FILES_MAX,
        resource.RLIMIT_CORE: 0,
    }
    if uid not in (None, NOBODY) or "user-namespace" in isolation:
        # The limit counts all processes of a user: it makes sense only where the user is the run's own.
        limits[resource.RLIMIT_NPROC] = PROCESSES_MAX
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def drop(uid: int, commands: list[list[str]], isolation: list[str]) -> list[str]:
    """Become `uid`, with the first interpreter that this user may execute. When there is none (all under a private
    home), stay who we are; then only landlock keeps the files."""
    pid = os.fork()
    if pid == 0:  # a scout: once dropped, there is no way back
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os._exit(next((number for number, command in enumerate(commands) if reaches(command[0])), 100))
    _, code = os.waitpid(pid, 0)
    number = os.waitstatus_to_exitcode(code)
    if not 0 <= number < len(commands):
        return commands[0]
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    isolation.append("user")
    return commands[number]


def reaches(path: str) -> bool:
    """Whether this user can execute the interpreter and read what stands around it."""
    folder = os.path.dirname(os.path.dirname(path))
    return os.access(path, os.X_OK | os.R_OK) and os.access(folder, os.R_OK | os.X_OK)


def landlock(folder: str, readable: list[str]) -> bool:
    """Of all files, only `readable` may be read and `folder` written; False when the kernel has no landlock."""
    version = libc.syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    every = (1 << LANDLOCK_BITS.get(version, 16)) - 1
    every &= (1 << 15) - 1  # the 16th, ioctl on devices, is not about files
    attributes = struct.pack("Q", every)
    rules = libc.syscall(SYS_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if rules < 0:
        return False
    for path, rights in [
        (folder, every),
        ("/dev/null", LANDLOCK_READ_FILE | 2),
        *((path, LANDLOCK_READ) for path in readable),
    ]:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not on this system
        if not os.path.isdir(path):
            rights &= 0b0111
        rule = struct.pack("=Qi", rights, place)
        libc.syscall(SYS_LANDLOCK_ADD, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint32(0))
        os.close(place)
    return bool(libc.syscall(SYS_LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0)) == 0)


def watch(child: int, control: int, deadline: float) -> bool:
    """Until the child ends, its time is over (then True), or the agent lets go of the control pipe."""
    ended = os.pidfd_open(child)
    try:
        left_s = max(deadline - time.monotonic(), 0.0)
        ready, _, _ = select.select([ended, control], [], [], left_s)
        if ended not in ready:
            os.kill(child, signal.SIGTERM)  # it ends the code, tells what that used, and goes
            if not select.select([ended], [], [], KEEPER_S)[0]:
                os.kill(child, signal.SIGKILL)
        return not ready
    finally:
        os.close(ended)


def kill_the_rest() -> None:
    """Where there is no namespace of processes: what the code started and left comes to us as children."""
    children = f"/proc/self/task/{os.getpid()}/children"
    for _ in range(1000):
        try:
            with open(children) as listed:
                for pid in listed.read().split():
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass  # gone just now, or a kernel without this list
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.002)
        except ChildProcessError:
            return


def read_all(fd: int) -> bytes:
    parts: list[bytes] = []
    read: Callable[[int, int], bytes] = os.read
    while part := read(fd, 65536):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


if __name__ == "__main__":
    main()

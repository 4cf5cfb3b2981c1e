"""Make `.venv` what the locks say. Safe when two do it at once, when one was interrupted, and when the folder moved.

Only the standard library of Python 3.11 and newer; `environment.sh` has looked for that.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {
    "run": {"run": ROOT / "requirements.lock"},
    "dev": {"run": ROOT / "requirements.lock", "dev": ROOT / "requirements-dev.lock"},
}
ROOT_STAMP = VENV / ".root"


class Failed(Exception):
    """The environment cannot be made."""


def main(kind: str) -> None:
    locks = LOCKS[kind]
    for lock in locks.values():
        if not lock.exists():
            raise Failed(f"{lock} is missing: check the repository out again")
    with open_lock():
        if is_made(locks):  # by who held the lock before us
            return
        begin = time.monotonic()
        if not works():
            make()
        install(list(locks.values())[-1])
        point_to_source()
        for name, lock in locks.items():
            stamp(VENV / f".lock-{name}", lock.read_text())
        stamp(ROOT_STAMP, f"{ROOT}\n")  # last: only a whole environment has it
        tell(f"the environment is ready after {time.monotonic() - begin:.0f} s", end="\n")


class open_lock:
    """Flock on the folder itself: no file to leave behind, and gone with its holder."""

    def __enter__(self) -> None:
        self.fd = os.open(ROOT, os.O_RDONLY)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another paddock is making the environment; waiting for it", end="\n")
            fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


def is_made(locks: dict[str, Path]) -> bool:
    try:
        return (
            ROOT_STAMP.read_text().strip() == str(ROOT)
            and all((VENV / f".lock-{name}").read_text() == lock.read_text() for name, lock in locks.items())
            and PYTHON.exists()
        )
    except OSError:
        return False


def works() -> bool:
    """Whether `.venv` is whole enough to install into: a Python that fits, which finds itself here."""
    probe = "import sys; print(sys.prefix); sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    try:
        told = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return False
    return told.returncode == 0 and Path(told.stdout.strip()).resolve() == VENV.resolve() and pip() is not None


def pip() -> list[str] | None:
    """How to install into `.venv`: with its own pip, else with that of the Python that runs this."""
    for command in ([str(PYTHON), "-m", "pip"], [sys.executable, "-m", "pip", "--python", str(PYTHON)]):
        if subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    return None


def make() -> None:
    tell(f"making {VENV.name} with Python {sys.version.split()[0]} …")
    if VENV.exists() or VENV.is_symlink():
        VENV.unlink() if VENV.is_symlink() else shutil.rmtree(VENV)
    told = ""
    for command in ways():
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and works():
            return
        told = (done.stdout + done.stderr).strip()
        shutil.rmtree(VENV, ignore_errors=True)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    raise Failed(
        f"{sys.executable} cannot make a virtual environment: install its venv "
        f"(Debian and Ubuntu: 'apt install python{version}-venv'), or name another Python in $PADDOCK_PYTHON"
        + (f"\n{told}" if told else "")
    )


def ways() -> list[list[str]]:
    """Debian takes ensurepip out of Python: then virtualenv or the system's own pip can stand in."""
    found = []
    if importlib.util.find_spec("ensurepip") is not None:
        found.append([sys.executable, "-m", "venv", str(VENV)])
    if importlib.util.find_spec("virtualenv") is not None:
        found.append([sys.executable, "-m", "virtualenv", "--quiet", str(VENV)])
    found.append([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    return found


def install(lock: Path) -> None:
    total = sum(1 for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    if lock.name != "requirements.lock":
        total += sum(1 for line in lock.read_text().splitlines() if "==" in line)
    tell(f"installing {total} packages …")
    command = [*(pip() or []), "install", "--no-input", "--disable-pip-version-check", "--no-deps"]
    process = subprocess.Popen(
        [*command, "--progress-bar", "off", "-r", str(lock)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
        env={**os.environ, "PIP_USER": "0", "PYTHONNOUSERSITE": "1"},
    )
    lines: list[str] = []
    seen = 0
    assert process.stdout is not None  # noqa: S101 - it was asked for, three lines above
    for line in process.stdout:
        lines = [*lines[-30:], line.rstrip()]
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            seen += 1
            name = line.removeprefix("Collecting ").removeprefix("Requirement already satisfied: ").split("==")[0]
            tell(f"fetching {min(seen, total)}/{total} packages ({name.strip()}) …", passing=True)
        elif line.startswith("Installing "):
            tell(f"installing {total} packages …", passing=True)
    if process.wait() != 0:
        raise Failed(
            "pip could not install what the lock says; its last lines:\n"
            + "\n".join(f"  {line}" for line in lines[-12:])
            + "\nCheck the network and pip's configuration ('pip config list'), then run the same command again."
        )


def point_to_source() -> None:
    """One .pth line instead of an editable install: nothing to build, and nothing of it in agents' environments."""
    for packages in VENV.glob("lib/python3.*/site-packages"):
        stamp(packages / "paddock-source.pth", f"{ROOT / 'src'}\n")


def stamp(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def tell(text: str, *, end: str = "", passing: bool = False) -> None:
    """One line that is written over on a terminal; elsewhere a line each, without the passing ones."""
    if sys.stderr.isatty():
        print(f"\r\033[Kpaddock: {text}", end=end, file=sys.stderr, flush=True)
    elif not passing:
        print(f"paddock: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (Failed, OSError) as error:
        print(f"\npaddock: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\npaddock: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)

"""Write the locks anew from pyproject.toml: the newest versions that fit, installed once and frozen.

Then every pin is looked for as a wheel for each Python that Paddock supports. `--check` does only that; `peers` renews
the locks in bench/peers instead, each from what its first line says.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
RUN, DEV = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
PYTHONS = ("3.11", "3.12", "3.13")
SOURCE_ONLY = ("nkeys",)
"""Published as source alone; pure Python, so it builds anywhere."""
HEAD = "# Written by './dev lock' from pyproject.toml; do not edit.\n"


def main() -> None:
    if "peers" in sys.argv[1:]:
        peers()
        return
    if "--check" not in sys.argv[1:]:
        write()
    for python in PYTHONS:
        check(python)


def write() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run = frozen(project["dependencies"])
    # The run pins come first, so that what developers run is what users run.
    both = frozen([*project["optional-dependencies"]["dev"], *run])
    RUN.write_text(HEAD + "".join(f"{pin}\n" for pin in run))
    DEV.write_text(HEAD + "-r requirements.lock\n" + "".join(f"{pin}\n" for pin in both if pin not in run))
    print(f"{len(run)} pins, {len(both) - len(run)} more for developers")


def peers() -> None:
    for lock in sorted(PEERS.glob("*.lock")):
        head, *old = lock.read_text().splitlines()
        kind, _, said = head.removeprefix("# ").partition(": ")
        if kind != "pip":  # fetched in ways of their own: renewed by hand
            print(f"{lock.name} stays at {' '.join(old)}")
            continue
        lock.write_text(head + "\n" + "".join(f"{pin}\n" for pin in frozen(said.split())))
        print(f"{lock.name} is written from {said}")


def frozen(requirements: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        told = subprocess.run(
            [python, "-m", "pip", "freeze", "--exclude", "pip", "--exclude", "setuptools"],
            capture_output=True,
            text=True,
            check=True,
        )
    return sorted(told.stdout.split(), key=str.lower)


def check(python: str) -> None:
    pins = [line for lock in (RUN, DEV) for line in lock.read_text().splitlines() if "==" in line]
    wheels = [pin for pin in pins if pin.split("==")[0] not in SOURCE_ONLY]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--target", folder),
                *("--python-version", python, "--only-binary", ":all:", *wheels),
            ],
            check=True,
        )
    print(f"all pins have wheels for Python {python}")


if __name__ == "__main__":
    main()

"""`./paddock` itself, in a copy of its own with a lock that is empty: nothing is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MAIN = "import sys; print(sys.prefix, sys.argv[1:])"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    root = tmp_path / "a folder"
    shutil.copytree(ROOT / ".ci", root / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("paddock", "dev"):
        shutil.copy2(ROOT / name, root / name)
    (root / "requirements.lock").write_text("# nothing\n")
    (root / "src/paddock").mkdir(parents=True)
    (root / "src/paddock/__main__.py").write_text(MAIN)
    return root


def start(command: Sequence[str | Path], cwd: Path, **env: str) -> subprocess.Popen[str]:
    kept = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PADDOCK_PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    return subprocess.Popen(
        [*map(str, command)], cwd=cwd, env=kept | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(command: Sequence[str | Path], cwd: Path, **env: str) -> tuple[int, str, str]:
    with start(command, cwd, **env) as process:
        out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_the_first_use_makes_the_environment_for_two_at_once_and_from_anywhere(copy: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(copy / "paddock")
    both = [start([link, "one", "a b"], tmp_path), start([link, "one", "a b"], Path("/"))]
    told = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert {out for out, _ in told} == {f"{copy / '.venv'} ['one', 'a b']\n"}
    assert "".join(err for _, err in told).count("making .venv") == 1
    assert run([copy / "paddock"], tmp_path)[2] == ""

    # a changed lock is noticed, and one that cannot be had is told; the next try goes on
    (copy / "requirements.lock").write_text("no-such-package-of-paddock==1\n")
    code, _, err = run([copy / "paddock"], tmp_path)
    assert code == 1
    assert "no-such-package-of-paddock" in err
    assert "run the same command again" in err
    (copy / "requirements.lock").write_text("# nothing, again\n")
    assert run([copy / "paddock"], tmp_path)[0] == 0

    # half an environment is made whole
    (copy / ".venv/bin/python").unlink()
    code, out, err = run([copy / "paddock", "x"], tmp_path)
    assert (code, out) == (0, f"{copy / '.venv'} ['x']\n")
    assert "making .venv" in err


def test_a_machine_without_a_fitting_python_is_told_what_to_install(copy: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "readlink", "cat", "cmp"):
        (tools / name).symlink_to(shutil.which(name) or name)
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    script = f'PATH={tools}; export PATH; . "{copy}/.ci/environment.sh"; find_python'
    # /usr/local/bin and /opt are looked into as well; a machine with one there finds it, which is as right
    code, _, err = run(["sh", "-c", f"here='{copy}'; {script}"], tmp_path, PADDOCK_PYTHON="")
    assert code == 0 or "apt install python3 python3-venv" in err


def test_a_python_without_ensurepip_still_makes_an_environment(copy: Path, tmp_path: Path) -> None:
    """As on Debian without python3-venv: the pip that it has installs into the new environment."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "ensurepip.py").write_text("raise ImportError('taken out by Debian')\n")
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nold = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'ensurepip' else old(name, package)\n"
    )
    code, out, err = run([copy / "paddock", "x"], tmp_path, PYTHONPATH=str(hidden))
    assert code == 0, err
    assert out == f"{copy / '.venv'} ['x']\n"
    assert not (copy / ".venv/bin/pip").exists()


def test_dev_names_its_commands_and_refuses_others(copy: Path, tmp_path: Path) -> None:
    code, out, _ = run([copy / "dev"], tmp_path)
    assert code == 0
    assert "test [ARGS]" in out
    assert run([copy / "dev", "fly"], tmp_path)[0] == 2

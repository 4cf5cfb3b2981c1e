"""Running code that nobody trusts, in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import TaskError
from paddock.foundry import sandbox
from paddock.foundry.executor import MEMORY_BYTES_MIN, Executor


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test uses a folder of its own for the runs, which must be empty at the end."""
    runs = tmp_path / "runs"
    runs.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)  # pytest's folders are private; runs have a user of their own
    monkeypatch.setattr(tempfile, "tempdir", str(runs))
    yield
    assert list(runs.iterdir()) == []


def run(code: str, **limits: Any) -> dict[str, Any]:
    return Executor().run(code, **limits)


def test_code_runs_and_says_what_it_used() -> None:
    result = run("print(6*7)")
    assert (result["stdout"], result["stderr"], result["exit_code"], result["signal"]) == ("42\n", "", 0, None)
    assert not result["timed_out"]
    assert result["cpu_s"] > 0
    assert result["memory_bytes_max"] > 1_000_000
    assert "limits" in result["isolation"]


def test_input_and_text_beyond_ascii_pass() -> None:
    assert run("import sys; print(sys.stdin.read()[::-1])", stdin="héllo ✓")["stdout"] == "✓ olléh\n"


def test_input_that_nobody_reads_is_no_error() -> None:
    assert run("print('done')", stdin="x" * 500_000)["stdout"] == "done\n"


@pytest.mark.parametrize(
    ("code", "code_or_signal"), [("import sys; sys.exit(7)", 7), ("import os; os.abort()", "SIGABRT")]
)
def test_how_it_ended_is_told(code: str, code_or_signal: Any) -> None:
    result = run(code)
    assert code_or_signal in (result["exit_code"], result["signal"])


def test_a_syntax_error_is_told_on_stderr() -> None:
    result = run("def (")
    assert result["exit_code"] == 1
    assert "SyntaxError" in result["stderr"]


def test_a_null_byte_in_the_code_is_refused() -> None:
    with pytest.raises(TaskError, match="null bytes"):
        run("print(1)\0print(2)")


def test_a_huge_source_runs() -> None:
    assert run("x = 1\n" * 100_000 + "print(x)")["stdout"] == "1\n"


def test_the_environment_of_the_agent_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_SOCKET_TOKEN", "secret")
    assert run("import os; print(sorted(os.environ))")["stdout"] == "['HOME', 'LANG', 'PATH', 'TMPDIR']\n"


def test_the_credentials_of_the_agent_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    creds = tmp_path / "agent.creds"
    creds.write_text("secret")
    creds.chmod(0o600)
    monkeypatch.setenv("PADDOCK_CREDS", str(creds))
    for path in (
        str(creds),
        f"/proc/{os.getpid()}/environ",
        f"/proc/{os.getpid()}/mem",
        f"/proc/{os.getppid()}/environ",
    ):
        result = run(f"print(open({path!r}, 'rb').read())")
        assert "PermissionError" in result["stderr"] or "FileNotFoundError" in result["stderr"], (path, result)
        assert "secret" not in result["stdout"]


def test_open_files_of_the_agent_are_not_inherited(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        result = run("import os\nfor fd in range(3, 60):\n  try: os.fstat(fd); print(fd)\n  except OSError: pass")
    assert result["stdout"] == ""


def test_the_agent_cannot_be_killed_from_inside() -> None:
    code = "import os\nfor pid in ({}, os.getppid(), -1):\n  try: os.kill(pid, 9)\n  except OSError as e: print(e)"
    assert run(code.format(os.getpid()))["timed_out"] is False


def test_there_is_no_network_where_the_kernel_lets_us_take_it() -> None:
    result = run("import socket; socket.create_connection(('127.0.0.1', 1), 1)")
    if "network" in result["isolation"]:
        assert "Network is unreachable" in result["stderr"] or "refused" in result["stderr"]
        assert run("import socket; print(socket.if_nameindex())")["stdout"] == "[(1, 'lo')]\n"
    assert result["exit_code"] == 1


def test_code_that_never_ends_is_ended() -> None:
    result = run("print('begun')\nwhile True: pass", timeout_s=0.3)
    assert (result["timed_out"], result["signal"], result["stdout"]) == (True, "SIGKILL", "begun\n")
    assert result["cpu_s"] > 0


def test_code_that_ignores_signals_is_ended() -> None:
    code = """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: time.sleep(1)
"""
    assert run(code, timeout_s=0.3)["timed_out"]


def test_code_that_prints_for_ever_is_cut_and_ended() -> None:
    result = run("while True: print('x' * 10_000)", timeout_s=0.5, output_bytes_max=1000)
    assert (len(result["stdout"]), result["truncated"], result["timed_out"]) == (1000, True, True)


def test_code_that_prints_much_ends_by_itself() -> None:
    result = run("print('x' * 3_000_000)", output_bytes_max=10)
    assert (result["stdout"], result["truncated"], result["exit_code"]) == ("x" * 10, True, 0)


def test_a_memory_hog_is_stopped_at_its_limit() -> None:
    result = run("x = bytearray(10**9)", memory_bytes=128 * 1024 * 1024)
    assert "MemoryError" in result["stderr"]


def test_a_file_cannot_grow_without_limit() -> None:
    code = "with open('big', 'wb') as f:\n  while True: f.write(bytes(10**6))"
    result = run(code)
    assert result["exit_code"] != 0
    assert "File too large" in result["stderr"] or result["signal"] == "SIGXFSZ"


def test_a_fork_bomb_is_bounded_and_ends(tmp_path: Path) -> None:
    code = """
import os
made = 0
while True:
    try:
        if os.fork() == 0:
            while True: pass
        made += 1
    except OSError:
        print(made)
        break
"""
    result = run(code, timeout_s=3)
    if {"user", "user-namespace"} & set(result["isolation"]):
        assert int(result["stdout"]) < 40
    assert not _alive(tmp_path)


def test_what_the_code_leaves_running_is_ended_with_it(tmp_path: Path) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
print("left")
"""
    assert run(code)["stdout"] == "left\n"
    assert not _alive(tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "import os, shutil; shutil.rmtree(os.getcwd(), ignore_errors=True); print('gone')",
        "import os; os.makedirs('a/b'); open('a/b/c','w'); [os.chmod(p, 0) for p in ('a/b', 'a', '.')]; print('gone')",
        "import os; os.symlink('/', 'root'); os.mkfifo('pipe'); print('gone')",
    ],
)
def test_its_folder_is_removed_whatever_it_did_to_it(code: str) -> None:
    assert run(code)["stdout"] == "gone\n"


def test_a_run_can_be_stopped_from_outside() -> None:
    order = sandbox.Order(
        code="import time; time.sleep(600)", timeout_s=60, memory_bytes=2**29, stdin="", output_bytes_max=1000
    )
    result = sandbox.run(order, stop=lambda: True)
    assert (result["signal"], result["timed_out"]) == ("SIGKILL", False)


def test_code_dies_with_its_agent(tmp_path: Path) -> None:
    script = "from paddock.foundry import Executor; Executor().run('import time; time.sleep(600)', timeout_s=300)"
    folder = tmp_path / "killed"  # a killed agent cannot remove its folder
    folder.mkdir(mode=0o755)
    agent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(folder)})
    try:
        _until(lambda: bool(_alive(folder)))
    finally:
        agent.kill()
        agent.wait()
    _until(lambda: not _alive(folder))


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout_s": 0},
        {"timeout_s": 10_000},
        {"timeout_s": float("nan")},
        {"memory_bytes": MEMORY_BYTES_MIN - 1},
        {"output_bytes_max": -1},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(TaskError) as caught:
        run("print(1)", **limits)
    assert caught.value.code == "bad-arguments"


def _until(state: Callable[[], bool]) -> None:
    """Wait for a state, with a limit."""
    limit = time.monotonic() + 20
    while not state():
        assert time.monotonic() < limit
        time.sleep(0.01)


def _alive(folder: Path) -> list[str]:
    """Processes that work in this folder, sandboxed code and its supervisors."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if os.readlink(process / "cwd").startswith(str(folder)):
                    found.append(process.name)
            except OSError:
                continue  # gone, or not ours to see
    return found

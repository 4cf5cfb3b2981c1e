from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path

import pytest

from paddock.model.errors import TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec, Limits, Method
from paddock.ports.runtime import Handle, Launch
from paddock.runtimes import process
from paddock.runtimes.exec import ExecRuntime

SHOW = """
import json, os, resource, sys
print(json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "sid": os.getsid(0), "argv": sys.argv[1:],
                  "fds": os.listdir("/proc/self/fd"), "umask": os.umask(0), "uid": os.getuid(),
                  "stdin": os.readlink("/proc/self/fd/0")}))
"""


def spec(*command: str, **settings: object) -> FleetSpec:
    return FleetSpec(name="lab", runtime="exec", command=list(command), **settings)  # type: ignore[arg-type]


def launch(folder: Path, spec: FleetSpec, **ports: int) -> Launch:
    return Launch(
        spec=spec, name="a", epoch=1, folder=str(folder), log_path=str(folder / "log"), ports=ports, env={"MORE": "2"}
    )


async def run(folder: Path, spec: FleetSpec, **ports: int) -> dict[str, object]:
    """Run it to its end; what it printed as JSON."""
    runtime = ExecRuntime()
    live = await runtime.start(launch(folder, spec, **ports))
    assert (await live.wait()).code == 0, (folder / "log").read_text()
    await runtime.close()
    seen: dict[str, object] = json.loads((folder / "log").read_text())
    seen["pid"] = live.handle.pid
    return seen


async def test_a_command_has_its_own_place_and_inherits_nothing_it_should_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the node")
    monkeypatch.setenv("LC_TIME", "C")
    seen = await run(tmp_path, spec(sys.executable, "-c", SHOW, env={"MINE": "1"}))
    env = seen["env"]
    assert isinstance(env, dict)
    assert (env["MINE"], env["MORE"], env["LC_TIME"]) == ("1", "2", "C")
    assert "AWS_SECRET_ACCESS_KEY" not in env
    assert seen["cwd"] == str(tmp_path)
    assert seen["sid"] == seen["pid"]
    assert seen["umask"] == 0o077
    assert seen["stdin"] == "/dev/null"
    assert len(seen["fds"]) <= 4  # type: ignore[arg-type]


async def test_holes_in_the_command_are_filled(tmp_path: Path) -> None:
    words = ["{port}", "x{port.admin}y", "{agent}", "{name}", "{other}", "{{}"]
    seen = await run(tmp_path, spec(sys.executable, "-c", SHOW, *words), port=4001, admin=4002)
    assert seen["argv"] == ["4001", "x4002y", "lab/a", "a", "{other}", "{{}"]


async def test_a_hole_for_a_port_that_it_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateBroken, match=r"uses \{port\.admin\}, a port that it does not ask for"):
        await ExecRuntime().start(launch(tmp_path, spec("true", "{port.admin}")))


async def test_a_relative_program_is_found_from_its_cwd(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/tool").write_text(f"#!{sys.executable}\n{SHOW}")
    (tmp_path / "mine/tool").chmod(0o700)
    seen = await run(tmp_path, spec("./tool", "x", cwd=str(tmp_path / "mine")))
    assert seen["cwd"] == str(tmp_path / "mine")


async def test_it_runs_as_another_user_if_the_node_may_do_that(tmp_path: Path) -> None:
    wanted = spec("/usr/bin/env", "sh", "-c", 'echo "{\\"uid\\": $(id -u)}"', user="nobody", cwd="/")
    if os.geteuid() == 0:
        seen = await run(tmp_path, wanted)
        assert seen["uid"] == pwd.getpwnam("nobody").pw_uid
    else:
        with pytest.raises(TemplateBroken, match="only a node that runs as root"):
            await run(tmp_path, wanted)


async def test_open_files_are_limited(tmp_path: Path) -> None:
    text = "import resource as r, time\nwhile r.getrlimit(r.RLIMIT_NOFILE)[0] != 64: time.sleep(0.01)\nprint('{}')"
    await run(tmp_path, spec(sys.executable, "-c", text, limits=Limits(open_files=64)))


async def test_commands_that_cannot_be_are_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    cases = {
        "command 'no-such-command' was not found in PATH": spec("no-such-command"),
        "command '/no/such' does not exist": spec("/no/such"),
        "plain' is not an executable file": spec(str(tmp_path / "plain")),
        "it has no command": spec(),
        "cwd '/no/such' is not a folder": spec("true", cwd="/no/such"),
        "user 'no-such-user' does not exist": spec("true", user="no-such-user"),
    }
    for words, broken in cases.items():
        for attempt in (ExecRuntime().check(broken), ExecRuntime().start(launch(tmp_path, broken))):
            with pytest.raises(TemplateBroken) as caught:
                await attempt
            assert words in caught.value.message


async def test_a_file_that_is_no_program_is_refused_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"\x00\x01")
    (tmp_path / "odd").chmod(0o700)
    with pytest.raises(TemplateBroken, match="cannot be started: Exec format error"):
        await ExecRuntime().start(launch(tmp_path, spec(str(tmp_path / "odd"))))


async def test_a_log_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(Unavailable, match="log file"):
        await ExecRuntime().start(launch(tmp_path, spec("true")))


async def test_the_check_returns_the_declared_methods() -> None:
    assert await ExecRuntime().check(spec("true")) is None
    assert await ExecRuntime().check(spec("true", methods=[Method(name="m")])) == [Method(name="m")]


async def test_the_exit_of_a_process_that_is_not_our_child_is_known_where_the_kernel_tells(tmp_path: Path) -> None:
    """Adopted, and reaped by its own parent: by pidfd since Linux 6.15; before, unknown."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    parent = os.fork()
    if parent == 0:
        child = os.fork()
        if child == 0:
            os.read(wait, 1)
            os._exit(7)
        os.write(tell, b"%d" % child)
        os.waitpid(child, 0)  # noqa: ASYNC222 - in a process of its own, without an event loop
        os._exit(0)
    pid = int(os.read(told, 20))
    ticks = process.start_ticks(pid)
    assert ticks is not None
    live = await ExecRuntime().adopt(Handle(runtime="exec", pid=pid, start_ticks=ticks, epoch=1))
    assert live is not None
    os.write(go, b"x")
    exit = await live.wait()
    assert exit.code in (7, None)
    os.waitpid(parent, 0)  # noqa: ASYNC222 - it has ended, or is about to
    for fd in (told, tell, wait, go):
        os.close(fd)

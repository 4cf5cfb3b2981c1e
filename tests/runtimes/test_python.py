from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from paddock.model.errors import TemplateBroken
from paddock.model.fleet import FleetSpec
from paddock.ports.runtime import Launch
from paddock.runtimes.python import PythonRuntime
from paddock.testing.runtime_contract import LIMIT_S, alive

MODULE = """
import json, os, sys, time
from paddock.agent import Agent, task

class Good(Agent):
    @task
    async def add(self, a: int, b: int = 2) -> int:
        "Adds."
        return a + b

class Plain:
    pass

def show(cls, env, spec_json):
    print(json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "sid": os.getsid(0), "pid": os.getpid(),
                      "argv": sys.argv, "fds": os.listdir("/proc/self/fd"), "umask": os.umask(0), "path": sys.path[0],
                      "stdin": os.readlink("/proc/self/fd/0"), "comm": open("/proc/self/comm").read().strip()}))
    return 5

def wait(cls, env, spec_json):
    print("up", flush=True)
    time.sleep(600)

def explode(cls, env, spec_json):
    raise ValueError("boom")
"""


def spec(folder: Path, agent: str = "um:Good", **settings: object) -> FleetSpec:
    (folder / "um.py").write_text(MODULE)
    return FleetSpec(name="lab", runtime="python", agent=agent, pythonpath=[str(folder)], **settings)  # type: ignore[arg-type]


def launch(folder: Path, spec: FleetSpec, name: str = "0", **env: str) -> Launch:
    own = folder / "agents" / name
    own.mkdir(parents=True, exist_ok=True)
    return Launch(
        spec=spec,
        name=name,
        epoch=1,
        folder=str(own),
        log_path=str(own / "log"),
        env={"PADDOCK_AGENT": f"lab/{name}", **env},
    )


async def test_a_forked_agent_has_its_own_place_and_inherits_nothing_it_should_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the node")
    monkeypatch.setenv("PYTHONPATH", "/of/the/node")
    runtime = PythonRuntime(run="um:show")
    live = await runtime.start(launch(tmp_path, spec(tmp_path, env={"MINE": "1"}), MORE="2"))
    assert (await live.wait()).code == 5
    seen = json.loads((tmp_path / "agents/0/log").read_text())
    assert seen["env"]["MINE"] == "1"
    assert seen["env"]["MORE"] == "2"
    assert seen["env"]["PADDOCK_AGENT"] == "lab/0"
    assert "PATH" in seen["env"]
    assert not {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "PADDOCK_FORK_RUNNER"} & set(seen["env"])
    assert seen["cwd"] == str(tmp_path / "agents/0")
    assert seen["sid"] == seen["pid"] == live.handle.pid
    assert seen["argv"] == ["lab/0"]
    assert seen["path"] == str(tmp_path)
    assert seen["umask"] == 0o077
    assert seen["stdin"] == "/dev/null"
    assert seen["comm"] == "lab/0"
    # 0, 1, 2, the folder that is being listed, and the pipe by which the event loop of this process hears of signals
    assert len(seen["fds"]) <= 6
    await runtime.close()


async def test_an_exception_is_in_the_log_and_the_exit_code_is_1(tmp_path: Path) -> None:
    runtime = PythonRuntime(run="um:explode")
    live = await runtime.start(launch(tmp_path, spec(tmp_path)))
    assert (await live.wait()).code == 1
    assert "ValueError: boom" in (tmp_path / "agents/0/log").read_text()
    await runtime.close()


async def test_a_killed_fork_server_stops_no_agent_and_is_replaced(tmp_path: Path) -> None:
    runtime = PythonRuntime(run="um:wait")
    first = await runtime.start(launch(tmp_path, spec(tmp_path), "0"))
    (server,) = runtime.server_pids()
    os.kill(server, signal.SIGKILL)
    second = await runtime.start(launch(tmp_path, spec(tmp_path), "1"))
    assert alive(first.handle.pid)
    assert runtime.server_pids() != [server]
    for live in (first, second):
        live.kill()
        async with asyncio.timeout(LIMIT_S):
            exit = await live.wait()
        assert exit.signal == signal.SIGKILL
    await runtime.close()


async def test_starts_under_way_survive_a_killed_fork_server(tmp_path: Path) -> None:
    runtime = PythonRuntime(run="um:wait")
    starts = [asyncio.ensure_future(runtime.start(launch(tmp_path, spec(tmp_path), str(n)))) for n in range(20)]
    await asyncio.sleep(0)
    for pid in runtime.server_pids():
        os.kill(pid, signal.SIGKILL)
    lives = await asyncio.gather(*starts)
    assert len({live.handle.pid for live in lives}) == 20
    for live in lives:
        live.kill()
    await asyncio.gather(*(live.wait() for live in lives))
    await runtime.close()


async def test_the_fork_server_ends_with_its_runtime_and_its_agents_live_on(tmp_path: Path) -> None:
    runtime = PythonRuntime(run="um:wait")
    live = await runtime.start(launch(tmp_path, spec(tmp_path)))
    (server,) = runtime.server_pids()
    await runtime.close()
    assert not alive(server)
    assert alive(live.handle.pid)
    runtime = PythonRuntime(run="um:wait")
    again = await runtime.adopt(live.handle)
    assert again is not None
    again.kill()
    await again.wait()
    await runtime.close()


async def test_the_methods_are_found(tmp_path: Path) -> None:
    methods = await PythonRuntime().check(spec(tmp_path))
    assert methods is not None
    assert [(method.name, method.doc) for method in methods] == [("add", "Adds.")]
    assert set(methods[0].args["properties"]) == {"a", "b"}


BROKEN = {
    "syntax": ("def f(:\n  pass\n", "m:A", "SyntaxError in {folder}/m.py, line 1"),
    "import": ("import no_such_thing\n", "m:A", "no module named 'no_such_thing' in {folder}/m.py, line 1"),
    "name": ("from os import nothing_like_that\n", "m:A", "ImportError in {folder}/m.py, line 1"),
    "class": ("x = 1\n", "m:A", "module 'm' has no class 'A'"),
    "not a class": ("A = 1\n", "m:A", "'A' of module 'm' is not a class"),
    "not an agent": ("class A: pass\n", "m:A", "does not derive from paddock.agent.Agent"),
    "raises": (
        "x = 1\nraise ValueError('two\\nlines')\n",
        "m:A",
        "raises at import in {folder}/m.py, line 2: ValueError: two lines",
    ),
    "exits": ("import sys\nsys.exit(3)\n", "m:A", "raises at import in {folder}/m.py, line 2: SystemExit: 3"),
    "really exits": ("import os\nos._exit(3)\n", "m:A", "its import ends the process (exit code 3)"),
    "dies": ("import os\nos.kill(os.getpid(), 11)\n", "m:A", "its import ends the process (signal 11)"),
    "no module": ("", "nowhere_at_all:A", "no module named 'nowhere_at_all'"),
    "no colon": ("", "m", "is not of the form module:Class"),
    "hangs": ("import time\nprint('x' * 100000)\ntime.sleep(600)\n", "m:A", "its import takes more than 3 s"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_what_is_wrong_with_a_template_is_said_in_one_sentence(tmp_path: Path, case: str) -> None:
    text, agent, expected = BROKEN[case]
    (tmp_path / "m.py").write_text(text)
    runtime = PythonRuntime(check_s_max=3.0 if case == "hangs" else 30.0)
    with pytest.raises(TemplateBroken) as caught:
        await runtime.check(FleetSpec(name="lab", runtime="python", agent=agent, pythonpath=[str(tmp_path)]))
    assert expected.format(folder=tmp_path) in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    runtime = PythonRuntime()
    for settings, words in (
        ({"cwd": "/no/such/folder"}, "cwd '/no/such/folder' is not a folder"),
        ({"user": "no-such-user"}, "user 'no-such-user' does not exist"),
        ({"stop_signal": "SIGNONE"}, "stop_signal 'SIGNONE' is not a signal"),
    ):
        with pytest.raises(TemplateBroken, match=words):
            await runtime.check(spec(tmp_path, **settings))
        with pytest.raises(TemplateBroken, match=words):
            await runtime.start(launch(tmp_path, spec(tmp_path, **settings)))

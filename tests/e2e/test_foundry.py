"""The README's first walk, with real processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

pytestmark = pytest.mark.xdist_group("foundry")


def test_five_kinds_are_alive_in_processes_of_their_own(foundry: Installation) -> None:
    agents = foundry.json("get", "agents")
    assert {agent["fleet"] for agent in agents} == {"architect", "coder", "executor", "critic", "deployer"}
    pids = [agent["pid"] for agent in agents]
    assert len(set(pids)) == len(pids)
    for pid in pids:
        os.kill(pid, 0)
    table = foundry.cli("get", "agents").stdout
    for agent in agents:
        assert agent["id"] in table


def test_executor_runs_code_and_tells_all_of_it(foundry: Installation) -> None:
    done = foundry.json("task", "submit", "executor", "run", "--arg", "code=print(6*7)", "--wait")
    assert done["state"] == "done"
    assert done["result"]["stdout"] == "42\n"
    assert done["result"]["exit_code"] == 0
    assert foundry.json("task", "get", done["id"])["state"] == "done"


def test_critic_finds_what_is_wrong_with_its_place(foundry: Installation, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import os\n\ndef f(:\n    pass\n")
    done = foundry.json("task", "submit", "critic", "review", "--arg", f"source=@{wrong}", "--wait")
    assert done["result"]["syntax_error"]["line"] == 3


@pytest.mark.parametrize(("fleet", "method", "arg"), [("architect", "design", "goal"), ("coder", "write", "task")])
def test_who_needs_a_model_says_that_there_is_none(foundry: Installation, fleet: str, method: str, arg: str) -> None:
    said = foundry.cli("task", "submit", fleet, method, "--arg", f"{arg}=a bridge", "--wait", "-o", "json", ok=False)
    assert said.returncode == 1
    told = json.loads(said.stdout)
    assert told["state"] == "failed"
    assert told["error"]["code"] == "no-model"
    assert "no model configured" in told["error"]["message"]


def test_deployer_checks_a_service_that_answers(foundry: Installation) -> None:
    url = foundry.running("server")["url"] + "/healthz"
    done = foundry.json("task", "submit", "deployer", "check", "--arg", f"url={url}", "--wait")
    assert done["result"]["ok"] is True
    assert done["result"]["status"] == 200


def test_a_killed_agent_is_back_with_a_new_process(foundry: Installation) -> None:
    before = foundry.ready("critic", 2)["critic/0"]
    os.kill(before["pid"], signal.SIGKILL)

    def back() -> object:
        now = foundry.agents("critic")["critic/0"]
        return now if now["state"] == "ready" and now["pid"] != before["pid"] else None

    after = until(back, what="critic/0 is back")
    assert after["restarts"] == before["restarts"] + 1  # type: ignore[index]  # the agent's JSON
    told = foundry.cli("describe", "agent", "critic/0").stdout
    assert "SIGKILL" in told


def test_scaling_up_and_down_ends_with_just_that_many(foundry: Installation) -> None:
    foundry.cli("scale", "executor", "12")
    assert len(foundry.ready("executor", 12)) == 12
    foundry.cli("scale", "executor", "2")
    assert set(foundry.ready("executor", 2)) == {"executor/0", "executor/1"}


def test_logs_show_what_an_agent_said(foundry: Installation) -> None:
    foundry.json("task", "submit", "executor/0", "run", "--arg", "code=print(1)", "--wait")
    assert foundry.cli("logs", "executor/0", "-n", "20").returncode == 0


def test_every_file_of_three_stdlib_packages_is_reviewed(foundry: Installation) -> None:
    folders = [Path(json.__file__).parent, Path(os.__file__).parent / "asyncio", Path(os.__file__).parent / "email"]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    done = foundry.cli("task", "submit", "critic", "review", "--each", *map(str, folders), "-o", "json", timeout_s=300)
    told = (
        [json.loads(line) for line in done.stdout.splitlines()]
        if done.stdout.startswith("{")
        else json.loads(done.stdout)
    )
    assert len(told) == len(files)
    assert all(task["state"] == "done" for task in told)

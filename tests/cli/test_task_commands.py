from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paddock.cli.each import find
from paddock.cli.task import arguments
from paddock.model.errors import Refused

from .canned import Call, Paddock


def view(state: str = "done", **more: Any) -> dict[str, Any]:
    return {"id": "T1", "fleet": "critic", "method": "review", "state": state, "attempts": 1, "result": None} | more


def test_arguments_are_text_files_or_json_and_the_single_ones_win(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("of the file\n")
    pairs = ["a=1", f"b=@{tmp_path / 'f.txt'}", "c:=[1, null]", "d=@@home", "e=x=y", "f="]
    args = arguments(pairs, '{"a": 0, "z": true}')
    expected = {"a": "1", "b": "of the file\n", "c": [1, None], "d": "@home", "e": "x=y", "f": "", "z": True}
    assert args == expected


@pytest.mark.parametrize(
    ("pairs", "whole", "words"),
    [
        (["novalue"], "", "not of the form"),
        (["=x"], "", "not of the form"),
        (["a:=nope"], "", "--arg a is not JSON"),
        (["a:=NaN"], "", "NaN, which is not JSON"),
        ([], "[1]", "not a JSON object"),
        ([], "{", "--args-json is not JSON"),
        (["a=@/no/such/file"], "", "/no/such/file cannot be read"),
        ([], "[" * 200_000, "not JSON"),
    ],
)
def test_arguments_that_are_none_are_refused_with_their_place(pairs: list[str], whole: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        arguments(pairs, whole)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"ab\xff")
    with pytest.raises(Refused, match=r"not UTF-8 \(byte 2\)"):
        arguments([f"a=@{tmp_path / 'x'}"], "")


def test_submit_prints_the_id_and_sends_all_that_was_said(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/tasks", view("queued"))
    words = ("--priority", "high", "--delay", "2", "--timeout", "3", "--key", "k", "--arg", "n:=1")
    assert paddock.run("task", "submit", "critic", "review", *words).stdout == "T1\n"
    sent = {"fleet": "critic", "method": "review", "args": {"n": 1}, "priority": "HIGH"}
    assert paddock.calls[-1].body == sent | {"delay_s": 2.0, "timeout_s": 3.0, "key": "k"}


def test_a_task_can_be_for_one_agent_or_for_a_capability(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/tasks", view("queued"))
    paddock.run("task", "submit", "critic/0", "review")
    assert paddock.calls[-1].body == {"agent": "critic/0", "method": "review", "args": {}, "priority": "MEDIUM"}
    paddock.run("task", "submit", "--capability", "design", "draw")
    assert paddock.calls[-1].body == {"capability": "design", "method": "draw", "args": {}, "priority": "MEDIUM"}
    assert paddock.run("task", "submit", "critic", "review", "--capability", "design").exit_code == 2


def test_wait_prints_the_result_once_it_is_there(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/tasks", view("queued"))
    looks = iter([view("running"), view("done", result={"stdout": "42\n"})])
    paddock.on("GET", "/api/v1/tasks/T1", lambda call: next(looks))
    told = paddock.run("task", "submit", "executor", "run", "--wait")
    assert json.loads(told.stdout) == {"stdout": "42\n"}
    assert float(paddock.calls[-1].query["wait_s"]) > 1


@pytest.mark.parametrize("state", ["failed", "dead", "cancelled"])
def test_a_task_that_does_not_end_well_is_exit_code_one_with_its_reason(paddock: Paddock, state: str) -> None:
    error = {"code": "no-model", "message": "no model configured", "where": "x.py:3"}
    paddock.on("GET", "/api/v1/tasks/T1", view(state, error=error))
    told = paddock.run("task", "wait", "T1")
    assert told.exit_code == 1
    assert f"task T1 is {state}: no-model: no model configured (at x.py:3)" in told.stderr
    assert json.loads(paddock.run("task", "wait", "T1", "-o", "json").stdout)["error"] == error


def test_a_wait_that_is_over_says_how_to_go_on(paddock: Paddock) -> None:
    paddock.on("GET", "/api/v1/tasks/T1", view("running"))
    told = paddock.run("task", "wait", "T1", "--wait-s", "0.01")
    assert told.exit_code == 1
    assert "has not ended, it is running: go on with 'paddock task wait T1'" in told.stderr


def test_cancel_replay_get_and_list(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/tasks/T1/cancel", view("cancelled"))
    paddock.on("POST", "/api/v1/tasks/T1/replay", view("queued", id="T2"))
    paddock.on("GET", "/api/v1/tasks/T1", view())
    paddock.on("GET", "/api/v1/tasks", {"items": [view(error={"message": "too bad"})], "next": None})
    assert paddock.run("task", "cancel", "T1").stdout == "T1 cancelled\n"
    assert paddock.run("task", "replay", "T1").stdout == "T2 queued\n"
    assert "review" in paddock.run("task", "get", "T1").stdout
    assert "too bad" in paddock.run("task", "list").stdout


def each_answer(call: Call) -> Any:
    path = Path(call.body["args"]["path"]).name
    if path == "bad.py":
        return view("failed", id="bad", error={"code": "boom", "message": "it broke"})
    return view("done", id=path, result={"findings": [1, 2], "complexity": 7})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "below").mkdir(parents=True)
    for name in ("a.py", "b.py", "below/c.py"):
        (folder / name).write_text(f"# {name}\n")
    (folder / "notes.txt").write_text("not Python")
    return folder


def test_each_makes_one_task_for_every_python_file(paddock: Paddock, tree: Path) -> None:
    paddock.on("POST", "/api/v1/tasks", each_answer)
    told = paddock.run("task", "submit", "critic", "review", "--each", str(tree), "-o", "json")
    assert told.exit_code == 0
    assert [Path(item["path"]).name for item in json.loads(told.stdout)] == ["a.py", "b.py", "c.py"]
    assert {call.body["args"]["source"] for call in paddock.calls} == {"# a.py\n", "# b.py\n", "# below/c.py\n"}
    table = paddock.run("task", "submit", "critic", "review", "--each", str(tree / "a.py"), str(tree / "b.py"))
    assert "2 findings, complexity 7" in table.stdout
    assert "2 files: 2 done" in table.stderr


def test_each_says_which_files_failed_and_goes_on_with_the_others(paddock: Paddock, tree: Path) -> None:
    (tree / "bad.py").write_text("x")
    (tree / "odd.py").write_bytes(b"# coding: no-such-coding\n")
    paddock.on("POST", "/api/v1/tasks", each_answer)
    told = paddock.run("task", "submit", "critic", "review", "--each", str(tree))
    assert told.exit_code == 1
    assert "5 files: 3 done, 2 failed" in told.stderr
    assert "2 of 5 tasks are not done" in told.stderr
    assert "unreadable" in told.stdout


def test_each_reads_a_file_in_the_encoding_that_it_declares(paddock: Paddock, tmp_path: Path) -> None:
    (tmp_path / "l.py").write_bytes(b"# coding: latin-1\nx = '\xe4'\n")
    paddock.on("POST", "/api/v1/tasks", each_answer)
    assert paddock.run("task", "submit", "critic", "review", "--each", str(tmp_path / "l.py")).exit_code == 0
    assert "'ä'" in paddock.calls[-1].body["args"]["source"]


def test_each_waits_when_the_queue_is_full(paddock: Paddock, tree: Path) -> None:
    answers = iter([(429, {"detail": "the queue of critic is full"}), view("done")])
    paddock.on("POST", "/api/v1/tasks", lambda call: next(answers))
    assert paddock.run("task", "submit", "critic", "review", "--each", str(tree / "a.py")).exit_code == 0


def test_each_ends_at_once_when_the_fleet_is_unknown(paddock: Paddock, tree: Path) -> None:
    paddock.on("POST", "/api/v1/tasks", (404, {"detail": "there is no fleet 'critics'; did you mean 'critic'?"}))
    told = paddock.run("task", "submit", "critics", "review", "--each", str(tree))
    assert told.exit_code == 1
    assert "did you mean 'critic'?" in told.stderr


def test_paths_of_each_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no \*\.py file"):
        find([tmp_path])
    with pytest.raises(Refused, match="neither a file nor a folder"):
        find([tmp_path / "none"])

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from rich.live import Live
from typer.testing import CliRunner

from paddock.cli import ready, show
from paddock.cli.main import app, hoist
from paddock.cli.show import duration
from paddock.fabric import embedded
from paddock.node.running import DEGRADED, RESTS

from .canned import Call, Paddock


def agent(name: str, state: str = "ready", **more: Any) -> dict[str, Any]:
    known = {"id": name, "fleet": name.split("/")[0], "state": state, "pid": 4242, "restarts": 1, "tasks_done": 12}
    return known | {"tasks_failed": 3, "health": 100, "node": "local", "started_at": 1.0} | more


def fleet(name: str, wanted: int, ready: int, **states: int) -> dict[str, Any]:
    return {"name": name, "wanted": wanted, "ready": ready, "states": {"ready": ready, **states}, "queued": 0}


def view(state: str = "done", **more: Any) -> dict[str, Any]:
    return {"id": "T1", "fleet": "critic", "method": "review", "state": state, "attempts": 1, "result": None} | more


COMMANDS = [
    ("get", "agents"),
    ("get", "events"),
    ("describe", "agent", "executor/0"),
    ("describe", "node", "local"),
    ("logs", "executor/0"),
    ("scale", "executor", "3"),
    ("delete", "fleet", "executor"),
    ("heal", "executor/0"),
    ("heal", "--all"),
    ("alert", "test"),
    ("task", "submit", "critic", "review"),
    ("task", "get", "T1"),
    ("task", "list"),
    ("task", "cancel", "T1"),
    ("task", "replay", "T1"),
    ("task", "wait", "T1"),
    ("status",),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_with_no_server_every_command_says_so_and_what_to_do(words: tuple[str, ...], tmp_path: Path) -> None:
    told = CliRunner().invoke(app, [*words, "--data", str(tmp_path / "none")])
    assert told.exit_code == 1
    assert told.stderr.startswith(f"Error: no Paddock is running for {tmp_path / 'none'}: start it with 'paddock up'")
    assert told.stderr.count("\n") == 1


def test_a_server_that_is_gone_is_told_like_one_that_never_was(paddock: Paddock) -> None:
    paddock.data.announce("server", url="http://127.0.0.1:9")
    told = paddock.run("get", "agents")
    assert told.exit_code == 1
    assert "no Paddock is running for" in told.stderr


@pytest.mark.parametrize("token", ["ü", "a\nb", "a\x00"])
def test_what_can_be_no_token_is_told_without_being_shown(paddock: Paddock, token: str) -> None:
    told = paddock.run("--token", token, "get", "agents")
    assert told.exit_code == 1
    assert "only printable ASCII" in told.stderr
    assert token not in told.stderr
    assert paddock.calls == []


def test_down_with_nothing_running_says_so_and_is_content(tmp_path: Path, paddock: Paddock) -> None:
    told = paddock.run("down")
    assert told.exit_code == 0
    assert "nothing to stop" in told.stderr


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_lead_to_another_path_is_refused_and_nothing_is_asked(paddock: Paddock, name: str) -> None:
    told = paddock.run("delete", "fleet", name)
    assert told.exit_code != 0
    assert f"{name!r} is no name" in told.stderr
    assert paddock.calls == []


def test_agents_fit_eighty_columns_with_their_figures(paddock: Paddock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    items = [agent("architect/0"), agent("executor/49", "quarantined", pid=None, health=0)]
    paddock.on("GET", "/api/v1/agents", {"items": items, "next": None})
    told = paddock.run("get", "agents")
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["id", "state", "pid", "uptime", "tasks", "errors", "health", "node"]
    assert re.fullmatch(r"architect/0 +ready +4242 +\d+d\d+h +12 +3 +100 +local *", lines[1])
    assert "quarantined" in lines[2]
    assert max(map(len, lines)) <= 80


def test_no_colour_reaches_a_pipe_or_a_terminal_that_wants_none(
    paddock: Paddock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    paddock.on("GET", "/api/v1/agents", {"items": [agent("a/0", "failed")], "next": None})
    assert "\x1b" not in paddock.run("get", "agents").stdout


def test_json_and_yaml_hold_all_that_the_server_said_over_all_pages(paddock: Paddock) -> None:
    def pages(call: Call) -> Any:
        if call.query.get("after") == "a/0":
            return {"items": [agent("a/1")], "next": None}
        return {"items": [agent("a/0")], "next": "a/0"}

    paddock.on("GET", "/api/v1/agents", pages)
    assert json.loads(paddock.run("get", "agents", "-o", "json").stdout) == [agent("a/0"), agent("a/1")]
    assert yaml.safe_load(paddock.run("get", "agents", "-o", "yaml").stdout) == [agent("a/0"), agent("a/1")]


def test_filters_reach_the_server(paddock: Paddock) -> None:
    paddock.on("GET", "/api/v1/tasks", {"items": [view()], "next": None})
    paddock.run("get", "tasks", "--fleet", "critic", "--state", "done", "--limit", "5")
    assert paddock.calls[-1].query == {"fleet": "critic", "state": "done", "limit": "5"}


@pytest.mark.parametrize(
    ("kind", "path", "item", "word"),
    [
        ("fleets", "/api/v1/fleets", fleet("executor", 3, 2, starting=1), "1 starting"),
        ("nodes", "/api/v1/nodes", {"id": "local", "host": "box", "seen_at": 1.0}, "box"),
        ("events", "/api/v1/history", {"seq": 1, "event": {"at": 1.0, "kind": "agent.died", "text": "why"}}, "why"),
    ],
)
def test_other_lists_are_shown(paddock: Paddock, kind: str, path: str, item: Any, word: str) -> None:
    paddock.on("GET", path, {"items": [item], "next": None})
    assert word in paddock.run("get", kind).stdout


def test_describe_shows_the_last_end_of_an_agent(paddock: Paddock) -> None:
    ended = {"reason": "killed by SIGKILL", "last_lines": ["one [red]two"]}
    paddock.on("GET", "/api/v1/agents/executor/0", agent("executor/0", last_exit=ended))
    told = paddock.run("describe", "agent", "executor/0")
    assert "killed by SIGKILL" in told.stdout
    assert "[red]two" in told.stdout
    assert paddock.run("describe", "agent", "executor").exit_code == 1
    paddock.on("GET", "/api/v1/nodes", [])
    assert "no node 'mars'" in paddock.run("describe", "node", "mars").stderr


def test_problems_of_the_server_are_one_sentence(paddock: Paddock) -> None:
    told = paddock.run("describe", "fleet", "no/where")
    assert (told.exit_code, told.stderr) == (1, "Error: there is no /api/v1/fleets/no%2Fwhere\n")
    paddock.on("GET", "/status", (200, b"<html>"))
    assert "does not speak Paddock's API" in paddock.run("status").stderr
    paddock.on("GET", "/status", (502, b"<html>"))
    assert "answered 502 to GET /status" in paddock.run("status").stderr
    paddock.on("GET", "/status", (401, {"detail": "no"}))
    assert "does not know this token" in paddock.run("status").stderr


def test_the_token_of_the_data_directory_is_sent_and_never_shown(paddock: Paddock) -> None:
    paddock.on("GET", "/status", {"version": "1"})
    told = paddock.run("status")
    assert paddock.calls[-1].token == paddock.data.token
    assert paddock.data.token not in told.output


def test_another_server_is_not_told_the_token_of_this_one(paddock: Paddock) -> None:
    paddock.on("GET", "/status", {"version": "1"})
    paddock.data.announce("server", url="http://127.0.0.1:9")
    assert paddock.run("--url", paddock.url, "status").exit_code == 0
    assert paddock.calls[-1].token == ""
    assert paddock.run("status", "--url", paddock.url, "--token", "mine").exit_code == 0
    assert paddock.calls[-1].token == "mine"
    assert "is no URL" in paddock.run("status", "--url", "over there").stderr


def test_global_options_may_stand_anywhere_before_two_dashes() -> None:
    assert hoist(["get", "agents", "--data", "x", "-o", "json"]) == ["--data", "x", "get", "agents", "-o", "json"]
    assert hoist(["a", "--url=u", "--", "--data", "x"]) == ["--url=u", "a", "--", "--data", "x"]
    assert hoist(["a", "--token"]) == ["--token", "a"]


def test_wrong_usage_is_exit_code_two(paddock: Paddock) -> None:
    for words in (
        ("get", "cows"),
        ("scale", "a", "-1"),
        ("heal",),
        ("delete", "agent", "executor/0"),
        ("task", "submit"),
        ("task", "submit", "critic"),
        ("task", "submit", "critic", "review", "x.py"),
        ("up", "--port", "70000"),
        ("no-such-command",),
    ):
        assert paddock.run(*words).exit_code == 2, words


def test_logs_are_printed_as_they_are_and_followed_from_where_they_ended(paddock: Paddock) -> None:
    def logs(call: Call) -> Any:
        if "lines" in call.query:
            return {"text": "one [bold]\n", "offset": 11}
        if call.query["offset"] == "11":
            return {"text": "two\n", "offset": 15}
        return 410, {"detail": "the agent is gone"}

    paddock.on("GET", "/api/v1/agents/executor/0/logs", logs)
    assert paddock.run("logs", "executor/0", "-n", "7").stdout == "one [bold]\n"
    assert paddock.calls[-1].query == {"lines": "7"}
    told = paddock.run("logs", "executor/0", "-f")
    assert told.stdout == "one [bold]\ntwo\n"
    assert "the agent is gone" in told.stderr


MANIFEST = "paddock: 1\nfleets: {executor: {command: [x]}}\n"


def test_apply_sends_text_and_folder_and_waits_until_agents_are_ready(paddock: Paddock, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    change = {"kind": "create", "fleet": "executor", "text": "create executor: 3 agents", "fields": {}, "restarts": 0}
    paddock.on("POST", "/api/v1/apply", {"changes": [change], "applied": True, "warnings": ["mind the gap"]})
    looks = iter([fleet("executor", 3, 0, starting=3), fleet("executor", 3, 2), fleet("executor", 3, 3)])
    paddock.on("GET", "/api/v1/fleets", lambda call: [next(looks), fleet("other", 5, 0)])
    told = paddock.run("apply", str(tmp_path / "m.yaml"))
    assert told.exit_code == 0
    assert told.stdout == "create executor: 3 agents\n"
    assert "Warning: mind the gap" in told.stderr
    assert "2/3 agents ready\n3/3 agents ready" in told.stderr
    sent = next(call.body for call in paddock.calls if call.path == "/api/v1/apply")
    source = {"name": str(tmp_path / "m.yaml"), "text": MANIFEST, "folder": str(tmp_path)}
    assert sent == {"manifests": [source], "prune": False}


def test_agents_that_fail_are_named_with_their_reason(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/fleets/executor/scale", fleet("executor", 2, 1))
    paddock.on("GET", "/api/v1/fleets", [fleet("executor", 2, 1, quarantined=1)])
    broken = agent("executor/1", "quarantined", reason="exit code 3, 11 times in 60 s")
    paddock.on("GET", "/api/v1/agents", {"items": [broken], "next": None})
    told = paddock.run("scale", "executor", "2")
    assert told.exit_code == 1
    assert "executor/1 is quarantined: exit code 3, 11 times in 60 s" in told.stderr
    assert "When the cause is mended, 'paddock heal --all' tries at once" in told.stderr
    assert paddock.calls[0].body == {"replicas": 2}


def test_apply_waits_until_the_new_version_has_reached_all(paddock: Paddock, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    change = {"kind": "update", "fleet": "executor", "text": "update executor", "fields": {}, "restarts": 4}
    paddock.on("POST", "/api/v1/apply", {"changes": [change], "applied": True, "warnings": []})
    looks = iter(fleet("executor", 4, 4) | {"outdated": outdated} for outdated in (4, 3, 0))
    paddock.on("GET", "/api/v1/fleets", lambda call: [next(looks)])
    told = paddock.run("apply", str(tmp_path / "m.yaml"))
    assert told.exit_code == 0
    assert "0/4 agents ready\n1/4 agents ready\n4/4 agents ready" in told.stderr


def test_a_rollout_that_is_stopped_by_its_failures_is_told(
    paddock: Paddock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "SETTLED_S", 0.0)
    (tmp_path / "m.yaml").write_text(MANIFEST)
    change = {"kind": "update", "fleet": "executor", "text": "update executor", "fields": {}, "restarts": 4}
    paddock.on("POST", "/api/v1/apply", {"changes": [change], "applied": True, "warnings": []})
    paddock.on("GET", "/api/v1/fleets", [fleet("executor", 4, 3, quarantined=1) | {"outdated": 3}])
    broken = agent("executor/1", "quarantined", reason="common cause: 2 agents ended alike")
    paddock.on("GET", "/api/v1/agents", {"items": [broken], "next": None})
    told = paddock.run("apply", str(tmp_path / "m.yaml"))
    assert told.exit_code == 1
    assert "executor/1 is quarantined: common cause: 2 agents ended alike" in told.stderr


def test_an_agent_that_was_told_to_do_less_is_not_waited_for_and_how_to_end_that_is_said(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/fleets/executor/scale", fleet("executor", 3, 1))
    paddock.on("GET", "/api/v1/fleets", [fleet("executor", 3, 1, degraded=2)])
    less = agent("executor/1", "degraded", reason=DEGRADED)
    rests = agent("executor/2", "degraded", reason=RESTS)
    paddock.on("GET", "/api/v1/agents", {"items": [less, rests], "next": None})
    told = paddock.run("scale", "executor", "3")
    assert told.exit_code == 0, told.stderr
    assert "executor/1 is degraded, as it was told to: 'paddock heal executor/1' ends that" in told.stderr
    assert "'paddock heal executor/2' ends that" in told.stderr


def test_an_agent_that_is_degraded_by_itself_is_waited_for(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/fleets/executor/scale", fleet("executor", 3, 1))
    paddock.on("GET", "/api/v1/fleets", [fleet("executor", 3, 1, degraded=2)])
    ill = agent("executor/1", "degraded", reason="probe web: ended with 1")
    paddock.on("GET", "/api/v1/agents", {"items": [ill, agent("executor/2", "degraded", reason=RESTS)], "next": None})
    told = paddock.run("scale", "executor", "3", "--wait-s", "0.3")
    assert told.exit_code == 1
    assert "executor: 1 of 3 ready" in told.stderr


def test_agents_that_take_too_long_are_told(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/fleets/executor/scale", fleet("executor", 2, 1))
    paddock.on("GET", "/api/v1/fleets", [fleet("executor", 2, 1, starting=1)])
    told = paddock.run("scale", "executor", "2", "--wait-s", "0.01")
    assert told.exit_code == 1
    assert "executor: 1 of 2 ready" in told.stderr
    assert "heal" not in told.stderr


def test_what_agents_die_of_is_said_while_they_are_waited_for(
    paddock: Paddock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "WHY_S", 0.0)
    paddock.on("POST", "/api/v1/fleets/executor/scale", fleet("executor", 1, 0))
    looks = iter([fleet("executor", 1, 0, pending=1)] * 3 + [fleet("executor", 1, 1)])
    paddock.on("GET", "/api/v1/fleets", lambda call: [next(looks)])
    reasons = iter(["exit code 1; again in 0.4 s", "exit code 1; again in 0.8 s", "out of memory; again in 1.6 s"])

    def agents(call: Any) -> Any:
        dead = agent("executor/0", "pending", reason=next(reasons), last_exit={"reason": "exit code 1"})
        return {"items": [dead], "next": None}

    paddock.on("GET", "/api/v1/agents", agents)
    told = paddock.run("scale", "executor", "1")
    assert told.exit_code == 0, told.stderr
    assert told.stderr.count("executor/0 is tried again: exit code 1; see 'paddock logs executor/0'") == 1
    assert "executor/0 is tried again: out of memory; see" in told.stderr


def test_a_fleet_is_deleted_once_its_agents_have_ended(paddock: Paddock) -> None:
    paddock.on("DELETE", "/api/v1/fleets/executor", (204, None))
    looks = iter([[agent("executor/0"), agent("executor/1")], [agent("executor/1")], []])
    paddock.on("GET", "/api/v1/agents", lambda call: {"items": next(looks), "next": None})
    told = paddock.run("delete", "fleet", "executor")
    assert told.exit_code == 0, told.stderr
    assert told.stderr.splitlines() == ["0/2 agents ended", "1/2 agents ended", "executor is deleted"]


def test_agents_of_a_deleted_fleet_that_do_not_end_are_told(paddock: Paddock) -> None:
    paddock.on("DELETE", "/api/v1/fleets/executor", (204, None))
    paddock.on("GET", "/api/v1/agents", {"items": [agent("executor/0")], "next": None})
    told = paddock.run("delete", "fleet", "executor", "--wait-s", "0.01")
    assert told.exit_code == 1
    assert "executor is deleted, and 1 of its agents run still: see 'paddock get agents'" in told.stderr


def test_plan_changes_nothing_and_shows_fields(paddock: Paddock, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    change = {"kind": "update", "fleet": "a", "text": "update a", "fields": {"cwd": ["", "/x"]}, "restarts": 2}
    paddock.on("POST", "/api/v1/plan", {"changes": [change], "applied": False, "warnings": []})
    assert (
        paddock.run("plan", str(tmp_path / "m.yaml")).stdout == "update a (replaces 2 running)\n    cwd: '' -> '/x'\n"
    )


def test_manifests_that_cannot_be_read_are_refused_before_anything_is_sent(paddock: Paddock, tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"paddock: \xff")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(20_000_000)
    for name, words in (("none.yaml", "No such file"), ("bytes.yaml", "not UTF-8"), ("huge.yaml", "larger than")):
        for command in ("apply", "plan", "up"):
            told = paddock.run(command, str(tmp_path / name))
            assert told.exit_code == 1
            assert words in told.stderr
            assert name in told.stderr
    assert paddock.calls == []


def test_channels_are_tried_and_those_that_fail_are_named(paddock: Paddock) -> None:
    items = [{"channel": "mail", "ok": True, "text": ""}, {"channel": "chat", "ok": False, "text": "chat answered 503"}]
    paddock.on("POST", "/api/v1/alerts/test", lambda call: {"items": items if not call.body["channel"] else items[:1]})
    told = paddock.run("alert", "test")
    assert told.exit_code == 1
    assert told.stdout.splitlines() == ["mail                 ok", "chat                 chat answered 503"]
    assert told.stderr.startswith("Error: chat reached nobody: see above")
    assert paddock.run("alert", "test", "mail").exit_code == 0
    assert json.loads(paddock.run("alert", "test", "mail", "-o", "json").stdout) == items[:1]


def test_status_and_plan_tell_of_channels(paddock: Paddock, tmp_path: Path) -> None:
    paddock.on("GET", "/status", {"version": "1", "alerts": {"mail": "ok", "chat": "failing since now: away"}})
    assert "mail: ok; chat: failing since now: away" in paddock.run("status").stdout
    file = tmp_path / "n.yaml"
    file.write_text("paddock: 1\n")
    plan = {"changes": [], "notifications": "notifications: add mail (smtp)", "warnings": []}
    paddock.on("POST", "/api/v1/plan", plan)
    assert paddock.run("plan", str(file)).stdout == "notifications: add mail (smtp)\n"


def test_heal_restarts_one_or_all(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/agents/executor/0/restart", agent("executor/0"))
    paddock.on("POST", "/api/v1/heal", {"healed": ["executor/1", "executor/2"]})
    assert paddock.run("heal", "executor/0").exit_code == 0
    assert paddock.run("heal", "--all").stdout == "executor/1\nexecutor/2\n"


def test_up_with_a_url_is_refused(paddock: Paddock) -> None:
    told = paddock.run("up", "--url", paddock.url)
    assert told.exit_code == 1
    assert "paddock apply" in told.stderr


def test_durations_are_short() -> None:
    assert [duration(s) for s in (None, 0, 42, 190, 18_120, 1_047_600)] == ["-", "0s", "42s", "3m10s", "5h02m", "12d3h"]


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys, runpy\nsys.argv = ['paddock', '--help']\n"
        "try: runpy.run_module('paddock', run_name='__main__')\nexcept SystemExit: pass\n"
        "heavy = {'httpx', 'fastapi', 'sqlalchemy', 'nats', 'yaml', 'uvicorn', 'structlog'} & set(sys.modules)\n"
        "sys.exit(repr(sorted(heavy)) if heavy else 0)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "Keeps fleets of agents alive" in told.stdout


def test_doctor_says_what_to_do_and_fails_when_something_is_bad(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    told = CliRunner().invoke(app, ["doctor", "--port", "0", "--data", str(tmp_path / "data")])
    assert told.exit_code == 1
    assert re.search(r"bad +data directory +.*is not a folder\n +-> name a folder with --data", told.stdout)
    assert "ok      python" in told.stdout
    well = CliRunner().invoke(app, ["doctor", "--port", "0", "--data", str(tmp_path / "new"), "-o", "json"])
    verdicts = {check["name"]: check["verdict"] for check in json.loads(well.stdout)}
    assert verdicts["data directory"] == verdicts["nats-server"] == "ok"


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", "ok +syncs +many tasks share one"), ("xfs", "warning syncs +each")]
)
def test_doctor_tells_what_a_sync_costs_there(
    tmp_path: Path, kind: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "file_system", lambda folder: (kind, ["rw"]))
    told = CliRunner().invoke(app, ["doctor", "--port", "0", "--data", str(tmp_path / "new")])
    assert told.exit_code == 0
    assert re.search(expected, told.stdout)


def test_what_is_said_while_a_picture_stands_goes_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show.picture(out), Live("the picture", console=out, auto_refresh=False):
        show.say("node is ready")
        show.warn("mind the gap")
    show.say("after it")
    written = out.file.getvalue()  # type: ignore[attr-defined]
    assert re.search("node is ready.*the picture.*mind the gap.*the picture", written, re.S)
    assert capsys.readouterr().err == "after it\n"


def test_a_number_that_is_no_time_is_not_shown_as_one() -> None:
    assert show.for_people("policy", {"recovered_at": 70, "opened_at": 1767225600.0})["recovered_at"] == 70


def test_a_reason_that_has_no_room_beside_its_task_stands_beneath_it(
    paddock: Paddock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = "its agent died, hung or was stopped while running it, or it failed, 3 times, which is once too often"
    dead = view(id="0" * 32, fleet="architect", state="dead", agent="architect/0", error={"message": text})
    done = view(id="1" * 32, fleet="architect", state="done", agent="architect/0")
    paddock.on("GET", "/api/v1/tasks", {"items": [dead, done], "next": None})
    lines = paddock.run("get", "tasks").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("0" * 32)
    assert all(line.startswith("    ") and line[4] != " " for line in lines[2:-1])
    assert " ".join(line.strip() for line in lines[2:-1]) == text
    assert lines[-1].startswith("1" * 32)


def test_the_schema_is_json() -> None:
    told = CliRunner().invoke(app, ["schema"])
    assert json.loads(told.stdout)["type"] == "object"


def test_at_eighty_columns_an_event_is_whole_and_nothing_is_cut(
    paddock: Paddock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = "create architect: 1 agent, python paddock.foundry:Architect"
    event = {"seq": 1, "event": {"at": 1.0, "kind": "fleet.applied", "about": "architect", "text": text}}
    paddock.on("GET", "/api/v1/history", {"items": [event], "next": None})
    lines = paddock.run("get", "events").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.match(r"(1970-01-01|1969-12-31) \d\d:\d\d:\d\d  fleet.applied  architect  create", lines[1])
    assert [word for line in lines[1:] for word in line.split()][4:] == text.split()


def test_the_totals_are_told_in_lines_for_people_and_whole_in_json(paddock: Paddock) -> None:
    told = {"version": "1", "uptime_s": 3725.4, "agents": {"ready": 7, "failed": 1}, "nodes": ["local"], "fleets": 5}
    told |= {"tasks": {"a": {"done": 2}, "b": {"done": 3, "dead": 1}}, "queued": {"a": 0, "b": 4}, "rows_waiting": 0}
    paddock.on("GET", "/status", told)
    lines = [line.split(maxsplit=1) for line in paddock.run("status").stdout.splitlines()]
    assert ["up", "1h02m"] in lines
    assert ["agents", "7 ready, 1 failed"] in lines
    assert ["tasks", "5 done, 1 dead"] in lines
    assert ["queued", "4 b"] in lines
    assert ["nodes", "local"] in lines
    assert json.loads(paddock.run("status", "-o", "json").stdout) == told


def test_describe_writes_times_and_sizes_for_people_and_what_authors_gave_as_it_is(paddock: Paddock) -> None:
    given = {"expires_at": 12.5, "none": [], "size_bytes": 2**30}
    paddock.on("GET", "/api/v1/tasks/T1", view(submitted_at=1767225600.0, kept_s=604800.0, args=given, result=given))
    told = paddock.run("describe", "task", "T1").stdout
    assert re.search(r"^submitted_at +202[56]-\d\d-\d\d \d\d:\d\d:00 \S+$", told, re.M)
    assert re.search(r"^kept_s +7d0h$", told, re.M)
    assert told.count("expires_at: 12.5") == 2
    assert told.count("none: []") == 2
    assert told.count(f"size_bytes: {2**30}") == 2
    nodes = [{"id": "local", "memory_bytes": 25 * 2**30, "attributes": {"limits": "rlimits", "empty": {}}}]
    paddock.on("GET", "/api/v1/nodes", nodes)
    told = paddock.run("describe", "node", "local").stdout
    assert re.search(r"^memory_bytes +25.0 GiB$", told, re.M)
    assert "empty" not in told

"""Commands about health and healing, on canned answers."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paddock.cli.main import app

from .canned import Paddock

AT = 1_790_000_000.0
COMMANDS = [
    ("explain", "incident", "17"),
    ("rollback", "bot"),
    ("incident", "close", "17"),
    ("ops", "list"),
    ("ops", "run", "clean-up"),
    ("report", "health"),
    ("report", "kpi"),
    ("get", "health"),
    ("get", "incidents"),
]


def score(agent: str, points: int, **more: Any) -> dict[str, Any]:
    band = "healthy" if points == 100 else "critical" if points < 30 else "fair"
    return {"id": agent, "fleet": agent.split("/")[0], "at": AT, "score": points, "band": band, "because": []} | more


def incident(number: int, **more: Any) -> dict[str, Any]:
    known = {"id": number, "key": f"agent.bot.{number}", "about": f"bot/{number}", "cause": "hang", "signature": "hang"}
    return known | {"title": f"bot/{number}: no beat for 10 s", "sign_at": AT, "opened_at": AT} | more


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_with_no_server_every_command_says_so(words: tuple[str, ...], tmp_path: Path) -> None:
    told = CliRunner().invoke(app, [*words, "--data", str(tmp_path / "none")])
    assert told.exit_code == 1
    assert told.stderr.startswith("Error: no Paddock is running for ")


def test_an_incident_is_explained_line_by_line(paddock: Paddock) -> None:
    answer = {
        "incident": incident(17),
        "summary": "bot/17: no beat for 10 s (cause: hang). Recovered after 2.0 s.",
        "lines": [{"at": AT, "text": "first sign", "kind": "sign"}, {"at": AT + 2, "text": "recovered", "kind": "end"}],
        "times": {"detect": 0.5, "recover": 2.0},
        "now": "look at it",
    }
    paddock.on("GET", "/api/v1/incidents/17/explain", answer)
    told = paddock.run("explain", "incident", "17")
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[0] == "Incident 17: bot/17: no beat for 10 s (cause: hang). Recovered after 2.0 s."
    assert "  time to detect: 0.50 s" in lines
    assert lines.index(next(line for line in lines if line.endswith("first sign"))) < lines.index(
        next(line for line in lines if line.endswith("recovered"))
    )
    assert lines[-1] == "Now: look at it"
    assert json.loads(paddock.run("explain", "incident", "17", "-o", "json").stdout) == answer


def test_only_incidents_can_be_explained_and_unknown_ones_are_said(paddock: Paddock) -> None:
    told = paddock.run("explain", "agent", "17")
    assert told.exit_code == 2
    assert "cannot be explained" in told.stderr
    gone = paddock.run("explain", "incident", "99")
    assert gone.exit_code == 1
    assert gone.stderr.startswith("Error: there is no /api/v1/incidents/99")


def test_one_is_closed_with_a_reason(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/incidents/17/close", incident(17, state="closed"))
    told = paddock.run("incident", "close", "17", "--why", "the disk was replaced")
    assert told.exit_code == 0
    assert paddock.calls[-1].body == {"why": "the disk was replaced"}
    assert "incident 17 is closed" in told.stderr + told.stdout


def test_a_rollback_names_the_version(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/fleets/bot/rollback", {"fleet": "bot", "version": "abc123"})
    told = paddock.run("rollback", "bot")
    assert told.exit_code == 0
    assert "bot is version abc123 again" in told.stderr + told.stdout


def test_the_agents_health_says_what_pulls_it_down(paddock: Paddock) -> None:
    sick = score(
        "bot/3",
        12,
        because=["its probe http does not answer: -30"],
        trend_per_h=-40.0,
        forecasts=[{"text": "memory will cross 200 MB in about 14 min"}],
    )
    paddock.on("GET", "/api/v1/health", {"items": [sick, score("bot/0", 100)], "next": None})
    told = paddock.run("get", "health")
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["agent", "score", "band", "trend", "because"]
    assert "bot/3" in lines[1]
    assert "-40/h" in lines[1]
    assert "its probe http" in told.stdout
    assert "14 min" in told.stdout


def test_a_band_that_is_held_is_marked(paddock: Paddock) -> None:
    items = [score("bot/1", 76, band="healthy", outside=1), score("bot/0", 100, band="healthy")]
    paddock.on("GET", "/api/v1/health", {"items": items, "next": None})
    first, second = paddock.run("get", "health").stdout.splitlines()[1:3]
    assert "healthy (held)" in first
    assert "held" not in second


def test_no_line_of_a_table_ends_with_blanks_and_a_long_sentence_leaves_room(paddock: Paddock) -> None:
    common = incident(2, about="exit code 7: connection refused by database", note="x" * 90)
    paddock.on("GET", "/api/v1/incidents", {"items": [common, incident(1)], "next": None})
    lines = paddock.run("get", "incidents").stdout.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert "exit code 7: connection refus…" in lines[1]
    assert "by database" not in lines[1]
    assert re.search(r"opened \(\S+\)", lines[0])


def test_an_explanation_goes_on_under_its_text(paddock: Paddock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    line = {"at": AT, "text": "restart, because " + "it died of this before " * 6}
    paddock.on("GET", "/api/v1/incidents/3/explain", {"summary": "s", "times": {}, "lines": [line], "now": ""})
    told = paddock.run("explain", "incident", "3").stdout.splitlines()
    assert max(map(len, told)) <= 80
    start = next(index for index, line in enumerate(told) if "restart, because" in line)
    assert told[start].startswith("20")
    assert all(line.startswith(" " * 21) and line[21] != " " for line in told[start + 1 :])


@pytest.mark.parametrize("since", ["-5h", "0", "59s", "367d", "nan", "inf", "soon"])
def test_a_time_that_no_report_can_be_of_is_refused_as_it_was_written(paddock: Paddock, since: str) -> None:
    told = paddock.run("report", "kpi", f"--since={since}")
    assert told.exit_code == 1
    assert told.stderr.startswith(f"Error: --since {since!r}")
    assert paddock.calls == []


def test_an_empty_action_is_no_restart(paddock: Paddock) -> None:
    paddock.on("POST", "/api/v1/agents/bot/1/heal", (422, {"detail": "action '' is unknown", "type": "urn:x:refused"}))
    told = paddock.run("heal", "bot/1", "--action", "")
    assert (told.exit_code, "action '' is unknown" in told.stderr) == (1, True)
    assert [call.path for call in paddock.calls] == ["/api/v1/agents/bot/1/heal"]


def test_incidents_are_listed_without_counting_skipped_steps(paddock: Paddock) -> None:
    steps = [{"action": "reboot", "outcome": "skipped"}, {"action": "restart", "outcome": "recovered"}]
    items = [incident(2, state="recovered", steps=steps, note="score 100 again"), incident(1)]
    paddock.on("GET", "/api/v1/incidents", {"items": items, "next": None})
    told = paddock.run("get", "incidents")
    assert told.exit_code == 0
    first, second = told.stdout.splitlines()[1:3]
    assert "recovered" in first
    assert "score 100 again" in first
    assert " 1 " in first
    assert "open" in second
    assert "no beat for 10 s" in second


REHEARSED = {
    "policy": "careful",
    "lines": [{"at_s": 0.0, "text": "restart, because it is first"}, {"at_s": 95.0, "text": "recovered: 100"}],
    "outcome": "recovered",
}


def test_a_policy_is_tried_on_an_imagined_incident(paddock: Paddock, tmp_path: Path) -> None:
    case = tmp_path / "case.yaml"
    case.write_text("fleet: bot\ncause: hang\nhelps: [redeploy]\n")
    paddock.on("POST", "/api/v1/policies/rehearse", REHEARSED)
    told = paddock.run("policy", "test", str(case))
    assert told.exit_code == 0
    assert paddock.calls[-1].body == {"fleet": "bot", "cause": "hang", "helps": ["redeploy"]}
    lines = told.stdout.splitlines()
    assert lines[0] == "By the policy careful:"
    assert lines[-1] == "Outcome: recovered"
    assert "restart, because it is first" in lines[1]


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
"""Ten to the ninth values, when its aliases are written out."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "holds no case"),
        ("", "the case is empty"),
        ("cause: [hang\n", "line 2, column 1: not YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1, column 4: the tag"),
        ("b: !!binary aGVsbG8=\n", "line 1, column 4: the tag"),
        ("cause: hang\nscore: .nan\n", "line 2, column 8: write a finite number"),
        ("cause: hang\nfleet: bot\ncause: oom\n", "the key 'cause' stands here again, first in line 1"),
        ("[" * 30_000, "nested deeper than 30 levels; a case needs far fewer"),
        (BOMB, "this case has more than"),
        ("x: " + "y" * 200_000, "is larger than"),
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_what_is_no_case_is_refused_before_anybody_is_asked(
    paddock: Paddock, tmp_path: Path, text: str | bytes | None, said: str
) -> None:
    case = tmp_path / "case.yaml"
    if text is not None:
        case.write_bytes(text if isinstance(text, bytes) else text.encode())
    told = paddock.run("policy", "test", str(case))
    assert told.exit_code == 1
    assert told.stderr.startswith("Error: ")
    assert said in told.stderr
    assert paddock.calls == []


def test_a_case_may_come_from_a_pipe_and_a_device_without_an_end_is_refused(paddock: Paddock, tmp_path: Path) -> None:
    told = paddock.run("policy", "test", "/dev/zero")
    assert (told.exit_code, "/dev/zero is larger than" in told.stderr) == (1, True)
    told = paddock.run("apply", "/dev/zero")
    assert (told.exit_code, "/dev/zero is larger than" in told.stderr) == (1, True)
    paddock.on("POST", "/api/v1/policies/rehearse", REHEARSED)
    read, write = os.pipe()
    os.write(write, b"cause: hang\nscore: 2026-01-01\n")
    os.close(write)
    told = paddock.run("policy", "test", f"/dev/fd/{read}")
    os.close(read)
    assert told.exit_code == 0, told.stderr
    assert paddock.calls[-1].body == {"cause": "hang", "score": "2026-01-01"}, "the server says what is wrong with it"


def test_daily_operations_are_listed_and_their_findings_are_a_failure(paddock: Paddock) -> None:
    paddock.on("GET", "/api/v1/ops", {"items": ["integrity-check", "clean-up"], "next": None})
    assert paddock.run("ops", "list").stdout.split() == ["integrity-check", "clean-up"]
    paddock.on("POST", "/api/v1/ops/clean-up", {"ok": True, "text": "0 old rows removed", "findings": []})
    fine = paddock.run("ops", "run", "clean-up")
    assert (fine.exit_code, fine.stdout) == (0, "clean-up: 0 old rows removed\n")
    found = {"ok": False, "text": "4 agents checked", "findings": ["1 wanted agent is nowhere"]}
    paddock.on("POST", "/api/v1/ops/integrity-check", found)
    bad = paddock.run("ops", "run", "integrity-check")
    assert bad.exit_code == 1
    assert "  - 1 wanted agent is nowhere" in bad.stdout
    assert paddock.run("ops", "run", "integrity-check", "-o", "json").exit_code == 1


def test_the_health_report_has_bands_fleets_and_the_worst(paddock: Paddock) -> None:
    report = {
        "at": AT,
        "bands": {"critical": 1, "healthy": 7},
        "fleets": {"bot": {"agents": 8.0, "lowest": 12.0, "mean": 89.0}},
        "worst": [score("bot/3", 12)],
        "open": [incident(17)],
    }
    paddock.on("GET", "/api/v1/report/health", report)
    told = paddock.run("report", "health", "--fleet", "bot")
    assert told.exit_code == 0
    assert paddock.calls[-1].query == {"fleet": "bot"}
    assert "Agents: 1 critical, 7 healthy" in told.stdout
    assert "bot/3" in told.stdout
    assert "no beat for 10 s" in told.stdout


def kpi(name: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": "share",
        "text": f"what {name} is",
        "good": None,
        "target": None,
    } | more


def test_key_figures_say_their_target_and_whether_it_is_met(paddock: Paddock) -> None:
    slo = {
        "fleet": "bot",
        "objective": {"name": "up", "share": 0.999},
        "value": 0.99,
        "budget_left": -9.0,
        "alarm": "page",
    }
    kpis = [kpi("availability", 0.9995, good=True, target=0.999), kpi("success", None), kpi("recover", 0.5, good=False)]
    paddock.on("GET", "/api/v1/report/kpi", {"kpis": kpis, "objectives": [slo]})
    told = paddock.run("report", "kpi", "--since", "90m")
    assert told.exit_code == 0
    assert paddock.calls[-1].query["since_s"] == "5400.0"
    lines = {line.split()[0]: line for line in told.stdout.splitlines() if line.strip()}
    assert "99.95%" in lines["availability"]
    assert "met" in lines["availability"]
    assert "not measured" in lines["success"]
    assert "missed" in lines["recover"]
    assert "page" in lines["bot"]
    assert json.loads(paddock.run("report", "kpi", "-o", "json").stdout)["kpis"] == kpis


@pytest.mark.parametrize("since", ["soon", "h", "12x", "", "1h30m"])
def test_a_time_that_is_none_is_refused(paddock: Paddock, since: str) -> None:
    told = paddock.run("report", "kpi", "--since", since)
    assert told.exit_code == 1
    assert "write such as 90m, 24h or 30d" in told.stderr
    assert paddock.calls == []


@pytest.mark.parametrize("name", ["health", "kpi"])
def test_a_page_is_written_where_it_is_asked_for(paddock: Paddock, tmp_path: Path, name: str) -> None:
    paddock.on("GET", f"/api/v1/report/{name}", b"<!doctype html>\n<p>\xc3\xa4</p>")
    page = tmp_path / "out.html"
    told = paddock.run("report", name, "--html", str(page))
    assert told.exit_code == 0
    assert page.read_text() == "<!doctype html>\n<p>ä</p>"
    assert paddock.calls[-1].query["html"] == "true"
    refused = paddock.run("report", name, "--html", str(tmp_path / "no" / "such" / "folder.html"))
    assert refused.exit_code == 1
    assert "cannot be written: No such file or directory" in refused.stderr

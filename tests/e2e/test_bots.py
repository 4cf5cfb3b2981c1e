"""Bots of `examples/bots.yaml` are broken and healed, with real processes and real faults."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

HEALED_S_MAX = 120.0
"""A limit for the slowest machine; not what is promised."""


def get(held: Installation, path: str, **params: Any) -> Any:
    with held.http() as http:
        return http.get(path, params=params).raise_for_status().json()


def switch(held: Installation, agent: str, fault: str) -> None:
    port = held.agents(agent.partition("/")[0])[agent]["ports"]["port"]
    assert httpx.post(f"http://127.0.0.1:{port}/fault/{fault}", timeout=30).status_code == 200


def healed(held: Installation, agent: str) -> dict[str, Any]:
    """The incident about this agent, once it is over and the agent ready."""

    def look() -> dict[str, Any]:
        found = get(held, "/api/v1/incidents", about=agent)["items"]
        over = [one for one in found if one.get("state") == "recovered"]
        ready = held.agents(agent.partition("/")[0])[agent]["state"] == "ready"
        return over[0] if over and len(over) == len(found) and ready else {}

    return until(look, what=f"{agent} is healed", limit_s=HEALED_S_MAX, every_s=0.2)


def actions(incident: dict[str, Any]) -> list[str]:
    return [step["action"] for step in incident.get("steps", []) if step.get("outcome") != "skipped"]


@pytest.fixture(scope="module")
def bots(tmp_path_factory: pytest.TempPathFactory) -> Any:
    held = Installation(tmp_path_factory.mktemp("bots") / "data")
    try:
        held.up(Path(__file__).parents[2] / "examples" / "bots.yaml")
        held.ready("bot", 4)
        held.ready("sums", 2)
        held.ready("watch", 1)
        yield held
    finally:
        held.down()


@pytest.mark.parametrize(
    ("agent", "fault", "cause"),
    [
        ("bot/0", "die", "crash"),
        ("bot/1", "hang", "endpoint-down"),
        ("bot/2", "garbage", "endpoint-down"),
        ("bot/3", "port", "endpoint-down"),
    ],
)
def test_a_bot_that_is_broken_is_healed_and_the_reason_is_told(
    bots: Installation, agent: str, fault: str, cause: str
) -> None:
    switch(bots, agent, fault)
    incident = healed(bots, agent)
    assert incident["cause"] == cause
    assert actions(incident)[-1].startswith("restart")
    told = bots.cli("explain", "incident", str(incident["id"])).stdout
    assert f"Incident {incident['id']}: " in told
    assert "Recovered after" in told


def test_an_agent_that_is_up_and_wrong_is_found_by_a_known_answer(bots: Installation) -> None:
    assert bots.json("task", "submit", "sums", "add", "--arg", "a:=2", "--arg", "b:=3", "--wait")["result"] == 5
    bots.json("task", "submit", "sums/0", "confuse", "--wait")
    incident = healed(bots, "sums/0")
    assert incident["cause"] == "wrong-answers"
    assert bots.json("task", "submit", "sums/0", "add", "--arg", "a:=2", "--arg", "b:=3", "--wait")["result"] == 5


def test_a_full_folder_is_emptied_whatever_it_takes(bots: Installation) -> None:
    """A restart alone does not mend it; a clean one does."""
    folder = bots.data / "node" / "agents" / "bot" / "0"
    switch(bots, "bot/0", "disk")

    def look() -> bool:
        found = get(bots, "/api/v1/incidents", about="bot/0")["items"]
        mended = [one for one in found if one.get("state") == "recovered" and "space" in one["title"]]
        return bool(mended) and not (folder / "junk").exists()

    until(look, what="its folder is empty", limit_s=HEALED_S_MAX, every_s=0.2)
    healed(bots, "bot/0")


def test_a_person_heals_and_reads_reports(bots: Installation, tmp_path: Path) -> None:
    assert bots.cli("heal", "bot/2", "--action", "redeploy").returncode == 0
    until(
        lambda: [one for one in get(bots, "/api/v1/incidents", about="bot/2")["items"] if "redeploy" in actions(one)],
        what="the redeployment is an incident",
    )
    bots.ready("bot", 4)
    assert "bot/0" in bots.cli("get", "health").stdout
    page = tmp_path / "kpi.html"
    assert bots.cli("report", "kpi", "--since", "1h", "--html", str(page)).returncode == 0
    assert not re.search(r"<script|https?://", page.read_text())
    case = tmp_path / "case.yaml"
    case.write_text("fleet: bot\ncause: wrong-answers\nhelps: [redeploy]\n")
    told = bots.cli("policy", "test", str(case)).stdout
    assert told.startswith("By the policy bots:")
    assert told.rstrip().endswith("Outcome: recovered")


def test_bots_in_other_languages(installation: Installation, examples: Path, tmp_path: Path) -> None:
    """`bots-polyglot.yaml`, with those of its languages that this machine has."""
    text = (examples / "bots-polyglot.yaml").read_text()
    lines = [line for line in text.splitlines() if not (line.startswith("  node-bot:") and not shutil.which("node"))]
    fleets = ["perl-bot", *(["node-bot"] if shutil.which("node") else [])]
    for script in ("bot.pl", "bot.js"):
        shutil.copy(examples / script, tmp_path)
    manifest = tmp_path / "bots-polyglot.yaml"
    manifest.write_text("\n".join(lines) + "\n")
    installation.up(manifest)
    for fleet in fleets:
        agent = installation.ready(fleet, 2)[f"{fleet}/0"]
        page = httpx.get(f"http://127.0.0.1:{agent['ports']['port']}/health", timeout=30)
        assert page.json()["status"] == "ok"
        switch(installation, f"{fleet}/0", "hang")
        incident = healed(installation, f"{fleet}/0")
        assert incident["cause"] == "endpoint-down"

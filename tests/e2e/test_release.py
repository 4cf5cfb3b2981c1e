"""A release that is bad: how far it goes, how it is named, and that one command undoes it. With real processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paddock.control.common import CANARY_S
from paddock.testing.installation import Installation
from paddock.testing.wait import until

AGENTS = 12
QUARTER = 3
PER_MIN = 30
"""The budget of the policy `default`."""
LIMIT_S = 60.0

SHOP = """
import asyncio, os, sys
from paddock.agent import Agent

class Shop(Agent):
    async def start(self):
        if self.config["release"] == "bad at once":
            raise ValueError(f"no price list of {self.id}")
        if self.config["release"] == "bad soon":
            asyncio.get_running_loop().call_later(0.5, self.crash)

    def crash(self):
        print("ValueError: no price list", file=sys.stderr, flush=True)
        os._exit(3)
"""
MANIFEST = """
paddock: 1
fleets:
  shop: {{agent: "shop:Shop", replicas: {replicas}, config: {{release: "{release}"}}}}
"""


def incidents(held: Installation) -> list[dict[str, Any]]:
    with held.http() as http:
        found: list[dict[str, Any]] = (
            http.get("/api/v1/incidents", params={"limit": 1000}).raise_for_status().json()["items"]
        )
    return found


def named(held: Installation) -> list[dict[str, Any]]:
    return [incident for incident in incidents(held) if incident.get("kind") == "common-cause"]


def told(held: Installation, kind: str) -> list[dict[str, Any]]:
    """Events of this kind, oldest first."""
    with held.http() as http:
        found = http.get("/api/v1/history", params={"kind": kind, "limit": 1000}).raise_for_status().json()["items"]
    return sorted((one["event"] for one in found), key=lambda event: event["at"])


@pytest.mark.parametrize("release", ["bad at once", "bad soon"])
def test_a_bad_release_reaches_a_quarter_is_named_and_undone(
    installation: Installation, tmp_path: Path, release: str
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    manifest = tmp_path / "shop.yaml"
    manifest.write_text(MANIFEST.format(replicas=AGENTS, release="good"))
    installation.up(manifest)
    before = installation.ready("shop", AGENTS)

    manifest.write_text(MANIFEST.format(replicas=AGENTS, release=release))
    applied = installation.cli("apply", str(manifest), ok=False)
    assert applied.returncode == 1
    assert f"is quarantined: common cause: {QUARTER} agents ended alike" in applied.stderr
    (cause,) = until(lambda: named(installation), what="one cause is named", limit_s=LIMIT_S)

    assert len(cause["members"]) == QUARTER
    number = str(cause["id"])
    assert cause["title"].startswith(f"{QUARTER} agents fail for one reason: release shop@{cause['release']} · ")
    assert cause["offer"]["command"] == "paddock rollback shop"
    explained = installation.cli("explain", "incident", number).stdout
    assert "the last change before it: update shop: config.release" in " ".join(explained.split())
    assert "no price list" in explained
    assert "Now: undo the likely change: paddock rollback shop" in explained

    def tries() -> list[dict[str, Any]]:
        """Two canaries died after it was named: nothing else is started of it."""
        since = [death for death in told(installation, "agent.died") if death["at"] > cause["opened_at"]]
        return since if len(since) >= 2 else []

    until(tries, what="the node tries it again, ever more seldom", limit_s=LIMIT_S)
    (held,) = told(installation, "node.held")
    assert set(held["data"]["agents"]) == set(cause["members"])
    deaths = told(installation, "agent.died")
    now = installation.agents("shop")
    steps = [step for one in incidents(installation) for step in one.get("steps", []) if step.get("by") != "node"]
    # Later the server tries one agent alone, which is the only healing of this release.
    assert [step for step in steps if step["started_at"] < cause["opened_at"] + CANARY_S - 1] == []
    assert len(deaths) <= PER_MIN
    assert {death["about"] for death in deaths} == set(cause["members"])
    well = before.keys() - cause["members"]
    assert {agent: now[agent]["epoch"] for agent in well} == {agent: before[agent]["epoch"] for agent in well}
    early = Counter(death["about"] for death in deaths if death["at"] <= cause["opened_at"])
    print(
        f"{release}: reached {QUARTER} of {AGENTS} agents;",
        "held by the node at the third agent's death;",
        f"named {cause['opened_at'] - cause['sign_at']:.2f} s after the first death,",
        f"with {sorted(early.values())} deaths of each agent until then;",
        f"{len(deaths)} starts of it in {deaths[-1]['at'] - cause['sign_at']:.1f} s, {len(steps)} of them by healing",
    )

    installation.cli("rollback", "shop")
    after = installation.ready("shop", AGENTS, limit_s=LIMIT_S)
    assert {agent["template"] for agent in after.values()} == {agent["template"] for agent in before.values()}
    assert {agent: after[agent]["epoch"] for agent in well} == {agent: before[agent]["epoch"] for agent in well}
    until(
        lambda: all(incident.get("state") in ("recovered", "closed") for incident in incidents(installation)),
        what="all incidents are over",
        limit_s=LIMIT_S,
    )
    assert len(named(installation)) == 1

"""docs/protocol.md is enough: an agent by a plain NATS client, with no import of Paddock."""

from __future__ import annotations

import sys
from pathlib import Path

from paddock.testing.installation import Installation
from paddock.testing.wait import until

AGENT = Path(__file__).parent / "plain_agent.py"


def test_an_agent_that_knows_only_the_protocol_works_and_is_watched(installation: Installation, tmp_path: Path) -> None:
    assert "paddock" not in [line.split()[1] for line in AGENT.read_text().splitlines() if line.startswith("import ")]
    manifest = tmp_path / "plain.yaml"
    manifest.write_text(
        "paddock: 1\n"
        "fleets:\n"
        "  plain:\n"
        f"    command: ['{sys.executable}', '{AGENT}']\n"
        "    replicas: 2\n"
        "    health: {beat: true, hang_s: 5}\n"
        "    methods: [double]\n"
    )
    installation.up(manifest)
    installation.ready("plain", 2)
    done = installation.json("task", "submit", "plain", "double", "--arg", "x:=21", "--wait")
    assert done["result"] == {"doubled": 42}
    mine = installation.json("task", "submit", "plain/1", "double", "--arg", "x:=1", "--wait")
    assert mine["agent"] == "plain/1"
    counted = until(
        lambda: [a for a in installation.agents("plain").values() if a["tasks_done"]], what="its beats carry counters"
    )
    assert counted

"""A host that cannot hold so many agents: said at the door, with which limit and what to raise; never half-way."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from paddock.testing.installation import Installation

OPEN_FILES = 400
MANIFEST = """
paddock: 1
fleets:
  sleeper: {command: ["sleep", "86400"], replicas: 2}
"""


def test_out_of_descriptors_is_said_before_scaling(installation: Installation, tmp_path: Path) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(MANIFEST)
    subprocess.run(
        [sys.executable, "-m", "paddock", "up", str(manifest), "--detach", "--port", "0", "--data", installation.data],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES)),
        capture_output=True,
        timeout=120,
        check=True,
    )
    before = installation.ready("sleeper", 2)

    refused = installation.cli("scale", "sleeper", "200", ok=False)
    assert refused.returncode == 1
    told = " ".join((refused.stdout + refused.stderr).split())
    assert "200 agents in all do not fit: there is room for 72" in told
    assert "its limit of 400 open files, 2 for each agent; raise it" in told
    manifest.write_text(MANIFEST.replace("replicas: 2", "replicas: 73"))
    assert installation.cli("apply", str(manifest), ok=False).returncode == 1
    assert installation.agents("sleeper").keys() == before.keys()

    installation.cli("scale", "sleeper", "20")  # what fits is done
    installation.ready("sleeper", 20)
    installation.cli("scale", "sleeper", "1")
    installation.ready("sleeper", 1)

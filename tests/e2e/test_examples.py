"""Every example runs as its first line says."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_hello(installation: Installation) -> None:
    installation.up(EXAMPLES / "hello.yaml")
    installation.ready("hello", 2)
    done = installation.json("task", "submit", "hello", "greet", "--arg", "name=Anna", "--wait")
    assert done["result"] == "Good day, Anna!"
    worked = installation.json("task", "submit", "hello", "work", "--arg", "steps:=3", "--wait")
    assert worked["state"] == "done"


def test_shell(installation: Installation) -> None:
    installation.up(EXAMPLES / "shell.yaml")
    installation.ready("clock", 1)
    web = installation.ready("web", 1)["web/0"]
    with urllib.request.urlopen(f"http://127.0.0.1:{web['ports']['port']}/", timeout=10) as page:
        assert page.status == 200
    assert "clock/0:" in until(lambda: installation.cli("logs", "clock/0").stdout, what="the clock's line", limit_s=10)


@pytest.mark.parametrize("manifest", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_every_example_has_a_test(manifest: str) -> None:
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    assert manifest in here, f"{manifest} is in examples/ but no test runs it"

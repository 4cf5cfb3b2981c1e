"""Bad input at the door of the whole system: one clear sentence, nothing changed."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from paddock.testing.installation import Installation


@pytest.mark.parametrize(
    "words",
    [
        ("get", "agents"),
        ("task", "submit", "critic", "review"),
        ("scale", "executor", "3"),
        ("logs", "executor/0"),
        ("heal", "executor/0"),
        ("apply", "none.yaml"),
        ("status",),
    ],
)
def test_commands_with_no_server_say_how_to_start_one(installation: Installation, words: tuple[str, ...]) -> None:
    done = installation.cli(*words, ok=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "paddock up" in done.stderr or "none.yaml" in done.stderr


def test_a_taken_port_is_said_and_nothing_is_left(installation: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = installation.cli("up", "--detach", "--port", port, ok=False)
    assert done.returncode == 1
    assert port in done.stderr
    assert "--port" in done.stderr


def test_a_data_directory_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    done = Installation(tmp_path / "data").cli("up", "--detach", ok=False)
    assert done.returncode == 1
    assert "--data" in done.stderr


def test_a_data_directory_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    card = tmp_path / "data/paddock.json"
    card.parent.mkdir(mode=0o700)
    card.write_text(json.dumps({"format": 99, "id": "x"}))
    done = Installation(tmp_path / "data").cli("up", "--detach", ok=False)
    assert done.returncode == 1
    assert "newer" in done.stderr
    assert json.loads(card.read_text()) == {"format": 99, "id": "x"}


def test_a_second_up_attaches_and_applies(installation: Installation, tmp_path: Path) -> None:
    installation.up()
    first = installation.running("server")["pid"]
    manifest = tmp_path / "m.yaml"
    manifest.write_text("paddock: 1\nfleets:\n  sleeper: {command: [sleep, '86400']}\n")
    installation.up(manifest)
    assert installation.running("server")["pid"] == first
    installation.ready("sleeper", 1)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def f(:\n", "line 1"),
        ("import nonexistent_module_xyz\n", "nonexistent_module_xyz"),
        ("raise RuntimeError('boom at import')\n", "boom at import"),
        ("class Other: pass\n", "Mine"),
        ("class Mine: pass\n", "Agent"),
    ],
)
def test_agents_that_cannot_be_made_live_are_refused_when_applied(
    installation: Installation, tmp_path: Path, code: str, says: str
) -> None:
    (tmp_path / "mine.py").write_text(code)
    manifest = tmp_path / "m.yaml"
    manifest.write_text("paddock: 1\nfleets:\n  mine: {agent: 'mine:Mine'}\n  well: {command: [sleep, '1000']}\n")
    installation.up()
    done = installation.cli("apply", str(manifest), ok=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert installation.agents() == {}
    assert installation.json("get", "fleets") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("paddock: 1\nfleets:\n  a: {command: [x], replicsa: 2}\n", "replicas"),
        ("paddock: 1\nfleets:\n  a: {command: [no-such-command-xyz]}\n", "no-such-command-xyz"),
        ("x" * 10_000_000, "larger than 1,000,000 bytes"),
        ("a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n", "line"),
        ("paddock: 1\nfleets: {a: {command: [x], depends_on: [b]}, b: {command: [x], depends_on: [a]}}\n", "a"),
        ("\tnot: yaml", "line 1"),
    ],
)
def test_manifests_that_are_no_good_are_refused_with_their_place(
    installation: Installation, tmp_path: Path, text: str, says: str
) -> None:
    manifest = tmp_path / "bad.yaml"
    manifest.write_text(text)
    installation.up()
    done = installation.cli("apply", str(manifest), ok=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert installation.json("get", "fleets") == []

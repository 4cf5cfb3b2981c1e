"""`./dev` answers questions about itself, and starts nothing it was not asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ("check", "test", "lint", "torture", "soak", "bench", "up", "lock")


def dev(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "dev"), *words], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_tells_what_it_does(command: str) -> None:
    whole, told = dev("--help").stdout, dev(command, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.split()[0] == command
    assert told.stdout in whole
    assert not any(f"\n  {other} " in told.stdout for other in COMMANDS)


def test_all_commands_are_told_of() -> None:
    lines = dev("help").stdout.splitlines()
    assert tuple(line.split()[0] for line in lines if line.startswith("  ") and line[2] != " ") == COMMANDS


@pytest.mark.parametrize("length", ["an-hour", "60s", "1e3", "-5"])
def test_a_soak_is_as_long_as_a_number_says(length: str) -> None:
    refused = dev("soak", length)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"dev: soak takes a number of seconds, not {length}\n"


def test_there_is_no_help_for_what_there_is_not() -> None:
    refused = dev("sing", "--help")
    assert refused.returncode == 2
    assert refused.stderr.startswith("dev: there is no command sing\n")

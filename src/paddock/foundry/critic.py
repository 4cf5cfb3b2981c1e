"""Reviews Python source: ruff's findings, and a reading of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from paddock.agent import Agent, TaskError, task
from paddock.foundry import syntax

RULES = "E4,E7,E9,F,W6,B,PLE"
RUFF_S_MAX = 60.0
LISTED_MAX = 500
"""Entries of each list in a review; `counts` has the true numbers."""
COMPLEX = 10


class Location(msgspec.Struct):
    row: int = 1
    column: int = 1


class Diagnostic(msgspec.Struct):
    """What we read of ruff's JSON."""

    message: str
    code: str | None = None
    location: Location | None = None


class Critic(Agent):
    """Reads source code and says what is wrong with it; runs none of it."""

    @task(timeout_s=120)
    def review(self, source: str, path: str = "<source>") -> dict[str, Any]:
        """Review Python source: findings, complexity of each function, unused names, a syntax error with its place, a
        summary and a score from 0 to 100. `path` is only for messages."""
        broken: dict[str, Any] | None = None
        functions: list[dict[str, Any]] = []
        unused: list[dict[str, Any]] = []
        try:
            tree = syntax.parse(source)
            functions, unused = syntax.complexity(tree), syntax.unused(tree)
        except syntax.NotPython as error:
            broken = error.args[0]
        findings = _ruff(source, stub=path.endswith(".pyi"))
        return {
            "path": path,
            "findings": findings[:LISTED_MAX],
            "complexity": functions[:LISTED_MAX],
            "unused": unused[:LISTED_MAX],
            "syntax_error": broken,
            "counts": {"findings": len(findings), "functions": len(functions), "unused": len(unused)},
            "summary": _summary(path, findings, functions, unused, broken),
            "score": _score(findings, functions, unused, broken),
        }


def _ruff(source: str, *, stub: bool) -> list[dict[str, Any]]:
    command = [
        *(_ruff_path(), "check", "--isolated", "--no-cache", "--output-format", "json", "--select", RULES),
        *(
            "--target-version",
            f"py3{sys.version_info.minor}",
            "--stdin-filename",
            "source.pyi" if stub else "source.py",
            "-",
        ),
    ]
    data = source.encode("utf-8", "replace")
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=RUFF_S_MAX, env={}, check=False)
    except subprocess.TimeoutExpired:
        raise TaskError(f"ruff took longer than {RUFF_S_MAX:g} s over this source", code="ruff") from None
    if done.returncode < 0:  # it crashed: nesting too deep for its stack, for one
        return [
            _finding(
                1, 1, "ruff", f"ruff was ended by signal {-done.returncode}: the source is too much for it", "error"
            )
        ]
    try:
        found = msgspec.json.decode(done.stdout, type=list[Diagnostic])
    except msgspec.DecodeError:
        text = done.stderr.decode("utf-8", "replace").strip()[-300:]
        return [_finding(1, 1, "ruff", f"ruff could not read the source: {text}", "error")]
    return [_of_ruff(diagnostic) for diagnostic in found]


def _ruff_path() -> str:
    beside = Path(sys.executable).parent / "ruff"
    path = str(beside) if beside.exists() else shutil.which("ruff")
    if path is None:
        raise TaskError("ruff is not installed beside this Python; pip install ruff", code="no-ruff")
    return path


def _of_ruff(diagnostic: Diagnostic) -> dict[str, Any]:
    place = diagnostic.location or Location()
    code = diagnostic.code or "invalid-syntax"
    grave = code == "invalid-syntax" or (code.startswith(("E9", "F8", "F7", "PLE")) and code != "F841")
    return _finding(place.row, place.column, code, diagnostic.message, "error" if grave else "warning")


def _finding(line: int, column: int, code: str, message: str, severity: str) -> dict[str, Any]:
    return {"line": line, "column": column, "code": code, "message": message, "severity": severity}


def _summary(
    path: str,
    findings: list[dict[str, Any]],
    functions: list[dict[str, Any]],
    unused: list[dict[str, Any]],
    broken: dict[str, Any] | None,
) -> str:
    if broken is not None:
        return f"{path}:{broken['line']}:{broken['column']}: not valid Python: {broken['message']}"
    parts = [_count(len(findings), "finding"), _count(len(unused), "unused name"), _count(len(functions), "function")]
    if functions:
        parts.append(f"most complex: {functions[0]['function']} ({functions[0]['value']})")
    return f"{path}: {', '.join(parts)}"


def _score(
    findings: list[dict[str, Any]],
    functions: list[dict[str, Any]],
    unused: list[dict[str, Any]],
    broken: dict[str, Any] | None,
) -> int:
    """100 without a finding, 0 when it is not Python. An error costs 5, a warning 2, others 1."""
    if broken is not None:
        return 0
    errors = len([finding for finding in findings if finding["severity"] == "error"])
    warnings = len(findings) - errors
    tangled = len([function for function in functions if function["value"] > COMPLEX])
    score: int = 100 - 5 * errors - 2 * warnings - tangled - len(unused)
    return max(0, score)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

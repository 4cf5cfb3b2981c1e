"""Reviews of real source, good and hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paddock.foundry import Critic
from paddock.foundry.syntax import complexity, parse, unused


def review(source: str, path: str = "<source>") -> dict[str, Any]:
    return Critic().review(source, path)


def test_clean_source_has_a_full_score() -> None:
    result = review("def f(x):\n    return x + 1\n", "good.py")
    assert (result["findings"], result["unused"], result["syntax_error"], result["score"]) == ([], [], None, 100)
    assert result["complexity"] == [{"function": "f", "line": 1, "value": 1}]
    assert result["summary"] == "good.py: 0 findings, 0 unused names, 1 function, most complex: f (1)"


def test_findings_have_line_column_code_and_severity() -> None:
    result = review("import os\nprint(undefined)\n")
    found = {finding["code"]: finding for finding in result["findings"]}
    assert (found["F821"]["line"], found["F821"]["column"], found["F821"]["severity"]) == (2, 7, "error")
    assert found["F401"]["severity"] == "warning"
    assert result["unused"] == [{"name": "os", "kind": "import", "line": 1}]
    assert result["score"] < 100


def test_a_syntax_error_has_its_place() -> None:
    result = review("x = 1\ndef f(:\n", "bad.py")
    assert (result["syntax_error"]["line"], result["syntax_error"]["column"]) == (2, 7)
    assert result["score"] == 0
    assert result["summary"].startswith("bad.py:2:7: not valid Python")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("(" * 500 + ")" * 500, "nested"),
        ("x = " + "-" * 100_000 + "1", "nested"),
        ("a = 1\nb = '\0'\n", "null bytes"),
        ("x = '\ud800'", "UTF-8"),
        ("if True:\nx = 1", "indented block"),
        ("x = 0777", "leading zeros"),
    ],
)
def test_source_that_is_no_python_is_told_and_never_crashes(source: str, words: str) -> None:
    error = review(source)["syntax_error"]
    assert error is not None
    assert words in error["message"]
    assert error["line"] >= 1
    assert error["column"] >= 1


def test_the_place_of_a_null_byte_is_told() -> None:
    error = review("a = 1\nb = '\0'\n")["syntax_error"]
    assert (error["line"], error["column"]) == (2, 6)


@pytest.mark.parametrize(
    "source", ["", "\n", "\ufeffx = 1\n", "# -*- coding: latin-1 -*-\nx = 'é'\n", "x = '\\d'\n", "x = 1\r\ny = 2\r\n"]
)
def test_odd_but_valid_source_is_read(source: str) -> None:
    assert review(source)["syntax_error"] is None


def test_a_deep_tree_is_walked_without_recursion() -> None:
    source = "x = " + "+".join(["1"] * 900)
    assert review(source)["syntax_error"] is None


def test_complexity_counts_branches_and_leaves_nested_functions_to_themselves() -> None:
    source = """
def outer(a, b):
    if a and b or a:
        return [x for x in a if x]
    for i in a:
        while b:
            try: pass
            except ValueError: pass
    def inner():
        return 1 if a else 2
    return inner
class C:
    async def m(self, v):
        match v:
            case 1: return
            case _: return
"""
    values = {item["function"]: item["value"] for item in complexity(parse(source))}
    assert values == {"outer": 9, "outer.inner": 2, "C.m": 3}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f():\n    x = 1\n", ["x"]),
        ("def f():\n    x = 1\n    def g(): return x\n    return g\n", []),
        ("def f():\n    x = 1\n    x += 1\n", []),
        ("def f():\n    global x\n    x = 1\n", []),
        ("def f():\n    x = 1\n    return locals()\n", []),
        ("def f():\n    _x = 1\n", []),
        ("def f():\n    try: pass\n    except OSError as e: pass\n", ["e"]),
        ("import a.b\nimport c as d\nfrom e import f, g as g\nfrom __future__ import annotations\n", ["a", "d", "f"]),
        ("from a import b\n__all__ = ['b']\n", []),
        ("from a import B\ndef f(x: 'list[B]'): ...\n", []),
        ("from a import *\n", []),
        ("x = 1\nclass C:\n    y = 2\n", []),
    ],
)
def test_names_that_nothing_reads_are_found(source: str, names: list[str]) -> None:
    assert [item["name"] for item in unused(parse(source))] == names


def test_a_source_with_thousands_of_findings_is_cut_and_counted() -> None:
    result = review("import os, sys\n" * 2000)
    assert len(result["findings"]) == 500
    assert result["counts"]["findings"] > 2000
    assert len(json.dumps(result)) < 500_000


def test_a_file_of_the_standard_library_is_reviewed() -> None:
    path = json.decoder.__file__
    result = review(Path(path).read_text(), path)
    assert result["syntax_error"] is None
    assert any(item["function"] == "py_scanstring" for item in result["complexity"])

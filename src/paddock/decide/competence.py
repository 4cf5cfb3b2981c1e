"""Whether an answer is the known one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TEXT_CHARS_MAX = 10_000
"""Of an answer no more is searched."""


def wrong(rule: Mapping[str, Any], answer: Any) -> str:
    """What is wrong with `answer` by a rule of `Probe.expect`; empty when it is right. An empty rule takes any answer.
    Answers are not repeated in the text: they may be large or secret."""
    for kind, wanted in rule.items():
        if not _RULES[kind](wanted, answer):
            return f"its answer is wrong: it is not what '{kind}' asks for"
    return ""


def _within(wanted: Any, answer: Any) -> bool:
    middle, tolerance = wanted
    number = isinstance(answer, int | float) and not isinstance(answer, bool)
    return number and abs(answer - middle) <= tolerance


def _text(answer: Any) -> str:
    return str(answer)[:TEXT_CHARS_MAX]


_RULES = {
    "equals": lambda wanted, answer: answer == wanted and isinstance(answer, bool) == isinstance(wanted, bool),
    "contains": lambda wanted, answer: str(wanted) in _text(answer),
    "matches": lambda wanted, answer: re.search(wanted, _text(answer)) is not None,
    "within": _within,
}
RULES = tuple(_RULES)
"""Names of the rules."""

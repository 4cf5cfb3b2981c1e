"""Whether an answer is the known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from paddock.model import pattern

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
    return number and abs(answer - middle) <= tolerance * (1 + 1e-9)  # 3.13 is within 0.01 of 3.14


def _text(answer: Any) -> str:
    """A text as it is, anything else as the JSON that it came as."""
    return (answer if isinstance(answer, str) else msgspec.json.encode(answer).decode())[:TEXT_CHARS_MAX]


_RULES = {
    "equals": lambda wanted, answer: answer == wanted and isinstance(answer, bool) == isinstance(wanted, bool),
    "contains": lambda wanted, answer: str(wanted) in _text(answer),
    "matches": lambda wanted, answer: pattern.found(wanted, _text(answer)),
    "within": _within,
}
RULES = tuple(_RULES)
"""Names of the rules."""

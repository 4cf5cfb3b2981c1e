"""Values on their way out: plain JSON, finite, in UTF-8, or a clear error."""

from __future__ import annotations

import math
from typing import Any

import msgspec


class BadValue(ValueError):
    """The value cannot be written as JSON."""


def plain(value: Any, place: str = "the value") -> Any:
    """`value` as JSON's own types; BadValue says where it is none: not serialisable, NaN, infinite, not UTF-8."""
    try:
        built = msgspec.to_builtins(value)
        if (bad := _not_finite(built, place)) is not None:
            raise BadValue(f"{bad} is NaN or infinite; JSON has only finite numbers")
        msgspec.json.encode(built)
    except BadValue:
        raise
    except RecursionError:
        raise BadValue("it is nested too deep, or contains itself") from None
    except Exception as error:  # msgspec raises several kinds, and a value's own code any
        raise BadValue(str(error) or type(error).__name__) from None
    return built


def _not_finite(value: Any, place: str) -> str | None:
    """Where the first NaN or infinity is, or None."""
    stack = [(value, place)]
    while stack:
        item, where = stack.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return where
        elif isinstance(item, dict):
            stack.extend((part, f"{where}[{key!r}]") for key, part in item.items() if _deep(part))
            if (
                bad := next((key for key in item if isinstance(key, float) and not math.isfinite(key)), None)
            ) is not None:
                return f"a key ({bad}) of {where}"
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend((part, f"{where}[{index}]") for index, part in enumerate(item) if _deep(part))
    return None


def _deep(part: Any) -> bool:
    """Whether `part` needs a look: only numbers and containers can hide a NaN."""
    return isinstance(part, (float, dict, list, tuple, set, frozenset))

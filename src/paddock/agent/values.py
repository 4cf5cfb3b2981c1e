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
        _check(built, msgspec.json.encode(built), place)
    except BadValue:
        raise
    except RecursionError:
        raise BadValue("it is nested too deep, or contains itself") from None
    except Exception as error:  # msgspec raises several kinds, and a value's own code any
        raise BadValue(str(error) or type(error).__name__) from None
    return built


def encoded(value: Any, place: str = "the value") -> bytes:
    """`value` as JSON, under the same conditions as `plain`."""
    try:
        data = msgspec.json.encode(value)
    except Exception:
        return msgspec.json.encode(plain(value, place))  # which says what is wrong with it
    _check(value, data, place)
    return data


def _check(value: Any, data: bytes, place: str) -> None:
    """BadValue when `value`, which was written as `data`, has a number that is not finite."""
    # As one of these NaN and infinity are written: most values have none of them, and need no closer look.
    suspect = value is not None and (b"null" in data or b"nan" in data or b"inf" in data)
    if suspect and (bad := _not_finite(msgspec.to_builtins(value), place)) is not None:
        raise BadValue(f"{bad} is NaN or infinite; JSON has only finite numbers")


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

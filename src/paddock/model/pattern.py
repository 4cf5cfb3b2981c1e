"""Regular expressions that people write into manifests. They are run on what agents say, so they are RE2's: no pattern
can take longer than in proportion to the text (no look-around, no back references)."""

from __future__ import annotations

import functools
from typing import Any

from paddock.model.errors import Refused

PATTERN_CHARS_MAX = 1000
_MEMORY_BYTES_MAX = 1 << 20
"""Of one compiled pattern; a larger one is refused."""


def check_pattern(pattern: str) -> None:
    """Raise Refused, with the reason, when this is no pattern."""
    _compiled(pattern)


def found(pattern: str, text: str | bytes) -> bool:
    """Whether `pattern` (one that was checked) is found anywhere in `text`."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return _compiled(pattern).search(data) is not None


@functools.lru_cache(maxsize=1000)
def _compiled(pattern: str) -> Any:
    import re2  # not for every agent: its process only reads names and specs

    if len(pattern) > PATTERN_CHARS_MAX:
        raise Refused(f"it has {len(pattern):,} characters, over the limit of {PATTERN_CHARS_MAX:,}")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES_MAX
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        said = error.args[0] if isinstance(error, re2.error) else "it holds half a character"
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise Refused(f"{text.partition(':')[0][:200]}") from error

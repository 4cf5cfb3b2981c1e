"""What a failure looks like, so that failures that look alike can be counted together.

A signature is the cause, the reason and the one telling line of what was said last, with all that differs from one
failure to the next masked: numbers, times, addresses, paths, quoted text. It is meant to be read by people, too.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Sequence

import msgspec

from paddock.model.agent import Evidence
from paddock.model.policy import Cause

SIGNATURE_CHARS_MAX = 200
LINE_CHARS_MAX = 1_000
"""Of a line no more is looked at."""
LINES_MAX = 100
"""Of the last lines no more are looked at."""

FROM_OUTSIDE = "killed from outside by "
"""In a signature: nothing in the agent or its release made it die."""

_KILLERS = {number.name for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
_KILLED = re.compile(r"killed by (SIG[A-Z]+)")

_MASKS = [
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"(?<![\w'])(['\"`])(?:(?!\1).){0,300}\1"), "<text>"),
    (re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s<>,;)\]]{1,500}"), "<url>"),
    (re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,5}\b"), "<mail>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b"), "<time>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"), "<address>"),
    (re.compile(r"(?i)(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4}(?![\w:])"), "<address>"),
    (re.compile(r"\b(?:localhost|[a-z][\w-]{0,62}(?:\.[\w-]{1,63}){1,8}):\d{1,5}\b"), "<address>"),
    (re.compile(r"(?<![\w<])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\][\w.@+~-]{1,255}){2,64}[/\\]?"), "<path>"),
    (re.compile(r"(?i)\b0x[0-9a-f]+\b"), "<hex>"),
    (re.compile(r"(?i)\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,}\b"), "<hex>"),
    (re.compile(r"[+-]?\d+(?:[.,]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
]
"""In this order: what is longest and most telling first."""

_TELLING = re.compile(
    r"(?i)\b(?:fatal|panic|critical|error|exception|abort(?:ed)?|fail(?:ed|ure)?|cannot|could not|denied|refused"
    r"|not found|no such|out of memory|segmentation fault|unable to|invalid|unrecognized|usage:)\b"
    r"|\w(?:Error|Exception|Interrupt|Exit)\b"
)
_NAMED = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit|panic)\b")
_MEMORY = re.compile(r"MemoryError|(?i:out of memory|cannot allocate memory|bad_alloc)")
_SAID = ("error", "exception", "event", "message", "msg")


def mask(line: str) -> str:
    """The line with all that differs from one failure to the next replaced: no digit is left. At most
    SIGNATURE_CHARS_MAX characters."""
    text = line[:LINE_CHARS_MAX]
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text.strip()[:SIGNATURE_CHARS_MAX]


def signature(cause: Cause, reason: str, lines: Sequence[str] = ()) -> str:
    """What failures of one kind have in common: `crash: exit code <n>: ValueError: no price for <text>`.

    `lines` are the last lines of its log; those that tell nothing of an error do not count. Who is killed from outside
    said nothing about it, so then they do not count at all."""
    killed = _killed(reason)
    if killed:
        return f"{cause}: {FROM_OUTSIDE}{killed}"
    parts = [str(cause), mask(reason), mask(telling(lines))]
    return ": ".join(part for part in parts if part)[:SIGNATURE_CHARS_MAX]


def digest(text: str) -> str:
    """A short name for a signature, for keys: 12 hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]


def telling(lines: Sequence[str]) -> str:
    """The line that says most about what went wrong: the last that begins with the name of an exception, else the last
    that speaks of an error; empty when there is none."""
    found = ""
    for line in reversed(lines[-LINES_MAX:]):
        text = _said(line[:LINE_CHARS_MAX])
        if _NAMED.match(text):
            return text
        if not found and _TELLING.search(text) and not text.startswith("Traceback"):
            found = text
    return found


def cause_of(evidence: Evidence, *, quarantined: bool = False, dependencies_down: Sequence[str] = ()) -> Cause:
    """Which kind of cause the end of an incarnation points to. `quarantined`: it was one of too many; then only memory
    says more than that. `dependencies_down`: fleets that it depends on and of which nobody is ready."""
    reason = evidence.reason
    if evidence.exit.oom or _MEMORY.search(telling(evidence.last_lines)):
        return Cause.OOM
    if quarantined or reason.startswith("crash loop"):
        return Cause.CRASH_LOOP
    if "hung" in reason or "no beat" in reason:
        return Cause.HANG
    if "probe failed" in reason:
        return Cause.ENDPOINT_DOWN
    if outside(evidence):
        return Cause.CRASH
    if dependencies_down:
        return Cause.DEPENDENCY
    if evidence.pid is None or "not ready within" in reason or "before it was ready" in reason:
        return Cause.NOT_STARTED
    return Cause.CRASH


def outside(evidence: Evidence) -> bool:
    """Whether somebody else ended it: a signal that neither its own fault, its node nor a limit explains."""
    return not evidence.exit.oom and bool(_killed(evidence.reason))


def from_outside(text: str) -> bool:
    """Whether a signature says so."""
    return FROM_OUTSIDE in text


def _killed(reason: str) -> str:
    found = _KILLED.match(reason)
    return found.group(1) if found and found.group(1) in _KILLERS else ""


def _said(line: str) -> str:
    """The text of a line, also of one in JSON."""
    text = line.strip()
    if not text.startswith("{"):
        return text
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return text
    said = [str(fields[name]) for name in _SAID if fields.get(name)] if isinstance(fields, dict) else []
    bad = isinstance(fields, dict) and str(fields.get("level", "")).lower() in ("error", "critical", "fatal")
    return f"{'error: ' if bad else ''}{': '.join(said)}" if said else text

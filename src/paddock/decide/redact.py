"""Takes secrets out of texts that go out or onto timelines. Rather one harmless word too many than one secret.

Every pattern looks at each character a bounded number of times; a text is cut before it is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[redacted]"
LIMIT = 4000
"""Characters that a redacted text has at the most, unless said otherwise."""
SECRETS_MAX = 5000
SECRET_CHARS_MIN = 4
"""Shorter values are not looked for: they are no secrets, and their letters are everywhere."""

_SCAN_MAX = 40_000
_MARGIN = 2000
"""Of a text that is longer than what is looked at, so much before the cut is thrown away: a secret may be cut there."""

_NAMES = (
    r"password|passwd|passphrase|pwd|secret|credential|private[_-]?key|access[_-]?key|api[_-]?key|signing[_-]?key"
    r"|encryption[_-]?key|session[_-]?id|token(?!s)"
)
_VALUE = "|".join(
    (
        r"(?:\[redacted\]",
        r'"(?:[^"\\\n]|\\.)*"?',
        r"'(?:[^'\\\n]|\\.)*'?",
        r"""\S{0,2000}[^\s,;.)\]}>"'])""",  # up to a blank, less the marks at its end
    )
)
_SHAPED = "|".join(
    (
        r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?",  # JSON web tokens
        r"(?:sk|pk|rk)[-_](?:[A-Za-z0-9]{1,12}[-_]){0,3}[A-Za-z0-9]{16,}",
        r"gh[opsur]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}",
        r"xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}",
        r"(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}",
        r"S[AUONCX][A-Z2-7]{54,58}",  # seeds of the fabric's identities
        r"(?<![0-9])[0-9]{6,12}:[A-Za-z0-9_-]{30,}",  # tokens of Telegram's bots
    )
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
    (
        re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?)(?:[a-z]{2,20}\s{1,3})?[^\s\"',;]+"),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)\b((?:set-)?cookie[\"']?\s{0,3}[:=]\s{0,3})[^\n]+"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(bearer\s{1,3})[A-Za-z0-9._~+/=:-]{6,}"), rf"\1{MASK}"),
    (re.compile(r"(://)[^\s/@\"'<>]{1,500}@"), rf"\1{MASK}@"),
    (re.compile(r"(?i)(hooks\.slack\.com/services/|/api/webhooks/|/bot(?=[0-9]+:))[^\s\"'<>]+"), rf"\1{MASK}"),
    (re.compile(rf"(?i)((?:{_NAMES})[\w-]{{0,20}}[\"']?\s{{0,3}}(?:=>|:=|[:=])\s{{0,3}}){_VALUE}"), rf"\1{MASK}"),
    (re.compile(rf"(?i)(--[\w-]{{0,20}}(?:{_NAMES})[\w-]{{0,20}}\s{{1,3}})(?![-\[]){_VALUE}"), rf"\1{MASK}"),
    (re.compile(rf"(?<![A-Za-z0-9_-])(?:{_SHAPED})(?![A-Za-z0-9_-])"), MASK),
)
_RUN = re.compile(r"[A-Za-z0-9_+/=-]{32,}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PIECES = re.compile(r"[-_/=]+")


def redact(text: str, secrets: Iterable[str] = (), *, limit: int = LIMIT) -> str:
    """`text` without the given `secrets`, and without what looks like one; at most `limit` characters long.

    Of long random words (32 characters and more) nothing is left either; an id in the form of a UUID stays.
    """
    scan = min(_SCAN_MAX, 2 * limit + _MARGIN)
    if len(text) > scan:
        text = text[: scan - _MARGIN] + "…"
    for secret in _known(secrets):
        if secret in text:
            text = text.replace(secret, MASK)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    text = _RUN.sub(_run, text)
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"


def _known(secrets: Iterable[str]) -> list[str]:
    """The secrets and how they look in URLs and in JSON; longer ones first, as one may be a part of another."""
    found: set[str] = set()
    for secret in secrets:
        if len(secret.strip()) >= SECRET_CHARS_MIN and len(found) < SECRETS_MAX:
            stripped = secret.strip()
            found |= {stripped, quote(stripped, safe=""), stripped.encode("unicode_escape").decode()}
    return sorted(found, key=len, reverse=True)


def _run(match: re.Match[str]) -> str:
    """A long word is a secret when a long piece of it is letters and digits mixed; paths and names are not."""
    word = match[0]
    if _UUID.fullmatch(word):
        return word
    random = any(_looks_random(piece) for piece in _PIECES.split(word))
    return MASK if random or ("+" in word and any(letter.isdigit() for letter in word)) else word


def _looks_random(piece: str) -> bool:
    digits = sum(letter.isdigit() for letter in piece)
    return len(piece) >= 20 and digits >= 2 and digits < len(piece)

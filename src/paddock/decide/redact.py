"""Takes secrets out of what strangers say, before it is kept, shown or sent. Rather one harmless word too many than one
secret.

    text ──control characters out──> ──known secrets out──> ──keys in PEM out──> one scan ──> long random words out
                                                                                   │
                            lead (`password=`, `://`, `Authorization:`, `sk-`) ──> its value ──> [redacted]

The scan is RE2's, and looks for leads only; what follows one is read by a pattern that is bound to that place and
looks at each character a bounded number of times. A text is cut before it is looked at. So ordinary logs cost little,
and hostile ones not much.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:  # who only cleans a line need not know what a fleet is
    from paddock.model.fleet import FleetSpec

MASK = "[redacted]"
LIMIT = 4000
"""Characters that a redacted text has at the most, unless said otherwise."""
SAID_CHARS_MAX = 200
SECRETS_MAX = 5000
SECRET_CHARS_MIN = 4
"""Shorter values are not looked for: they are no secrets, and their letters are everywhere."""

_SCAN_MAX = 40_000
_MARGIN = 2000
"""Of a text that is longer than what is looked at, so much before the cut is thrown away: a secret may be cut there."""

_USER_CHARS_MAX = 702
"""Of a user with a password in a URL no more is looked at."""

# --- leads: what stands before a secret

_PHRASES = r"password|passwd|passphrase|passcode|pwd"
"""What they name may hold blanks; keys and tokens hold none."""
_NAMES = (
    rf"{_PHRASES}|secret|credential|session[_-]?id|token"
    r"|(?:private|access|api|signing|encryption|account|shared|master|storage)[ _-]?key"
)
_SHORT = r"pass|pw|auth|sig"
_SEP = (
    r"""\\?["']?[ \t]{0,40}(?:=>|:=|[:=]{1,2})[ \t]{0,40}"""
    r"""(?:[|>]?-?\r?\n[ \t]{1,40})?"""  # in YAML it may stand below
)
_NEXT = r"""(?:["']?,[ \t]{0,3}|[ \t]{1,40})"""
"""Between a flag and its value, also in a list of words."""
_LEADS = {
    "authorization": r"""\bauthorization\\?["']?[ \t]{0,40}(?:=>|[:=])[ \t]{0,40}\\?["']?""",
    "cookie": r"""\bcookie\\?["']?[ \t]{0,40}[:=][ \t]{0,40}""",
    "bearer": r"\bbearer[ \t]{1,3}",
    "url": r"://",
    "hook": r"hooks\.slack\.com/services/|/api/webhooks/",
    "bot": r"/bot",
    "phrase": rf"(?:{_PHRASES})[\w-]{{0,20}}{_SEP}",
    "name": rf"(?:{_NAMES})[\w-]{{0,20}}{_SEP}",
    "short": (
        rf"pass\\?[\"']?[ \t]{{0,40}}=[ \t]{{0,40}}|\b(?:[a-z0-9]{{1,20}}[_-])*(?:pass|pw){_SEP}"
        rf"|\b(?:[a-z0-9]{{1,20}}[_-])*(?:auth|sig)(?:[\"'][ \t]{{0,40}}:|[\"']?[ \t]{{0,40}}=)[ \t]{{0,40}}"
        rf"|\bx-auth[\w-]{{0,20}}{_SEP}|[?&](?:key|code|signature)="
    ),
    "flag": (
        rf"(?:--|\B-)[\w-]{{0,20}}(?:(?:{_NAMES})[\w-]{{0,20}}|{_SHORT}){_NEXT}"
        rf"|\bsshpass[\"']?{_NEXT}[\"']?-p{_NEXT}"
    ),
    "glued": r"\bsshpass[ \t]{1,3}-p|\b(?:mysql|mariadb)[a-z]{0,10}\b[^\n]{0,60}?[ \t]-p",
    "user": rf"(?:\B-u|--(?:proxy-)?user)(?:{_NEXT}|=|\B|\b)",
    "spoken": rf"(?:{_PHRASES})[\w-]{{0,20}}[\"']?(?:[ \t]{{1,3}}(?:is|was))?[ \t]{{1,40}}",
    "named": rf"(?:{_NAMES})[\w-]{{0,20}}[\"']?(?:[ \t]{{1,3}}(?:is|was))?[ \t]{{1,40}}",
    "shaped": (
        r"\b(?:eyJ|[spr]k[-_]|gh[opsur]_|github_pat_|glpat-|hf_|npm_|pypi-|xox[a-z]-|xapp-|AKIA|ASIA|AIza"
        r"|SG\.|S[AUONCX][A-Z2-7]{50}|[0-9]{6,12}:)"
    ),
}

# --- values: what is taken out, read from the end of its lead

_WORD = rb"""[^\s]{0,2000}[^\s,;.)\]}>"'\\]"""
"""Up to a blank, less the marks at its end."""
_EMPTY = re.compile(rb"(?i)[\"']?(?:none|null|nil|undefined|true|false)[\"']?(?=[,;)\]}\n]|$)")
_DONE = re.compile(re.escape(MASK.encode()))
_GROUPED = re.compile(rb"\[[^\]\n]*\]?|\{[^}\n]*\}?|\([^)\n]*\)?")
_OPEN = re.compile(rb"""(?i)[bur]{0,2}(\\?["'`])""")
_BODIES = {
    mark: re.compile(rb"(?:[^\\\n" + mark[-1:] + rb"]|" + escaped + rb")*")
    for mark, escaped in (
        (b'"', rb"\\."),
        (b"'", rb"\\."),
        (b"`", rb"\\."),
        (rb"\"", rb'\\[^"\n]'),
        (rb"\'", rb"\\[^'\n]"),
        (rb"\`", rb"\\[^`\n]"),
    )
}
"""What stands in quotes, by what opens them: also in a text in JSON within another text."""
_GLUED_ON = re.compile(rb"[^\s,;.:)\]}>&\\]\S*")
_WORDS = {
    "phrase": re.compile(
        _WORD
        + rb"""(?:[ \t]{1,3}(?!-|\[redacted\]|[\w.-]{1,60}\\?["']?[ \t]?(?:=|:[ \t\n]|:$))"""
        + rb"""[^\s]{0,200}[^\s,;.)\]}>"'\\]){0,12}"""
    ),
    "one": re.compile(_WORD),
}
_PARAM = rb"""[\w-]{1,40}=(?:\\?"[^"\n]*"|[^\s,"'\\]*)"""
_VALUES = {
    "authorization": re.compile(
        rb"(?i)\[redacted\]|(?:[a-z][\w-]{1,30}[ \t]{1,3})?(?:"
        + _PARAM
        + rb"(?:[ \t]{0,3},[ \t]{0,3}"
        + _PARAM
        + rb")*"
        rb"""|[^\s"',;\\]+)"""
    ),
    "line": re.compile(rb"[^\n]+"),
    "bearer": re.compile(rb"[A-Za-z0-9._~+/=:-]{6,}"),
    "hook": re.compile(rb"""[^\s"'<>]+"""),
    "bot": re.compile(rb"""[0-9]+:[^\s"'<>]+"""),
    "user": re.compile(rb"""["']?[^\s:"'/@-][^\s:"'/]{0,100}:(?!\d+(?:[\s"',]|$)|//)(?:[^\s"']+|(?<=:)["'][^"'\n]*)"""),
    "spoken": re.compile(rb"""[("'`]?([^\s"'`()<>]{4,2000})"""),
    "url": re.compile(
        rb"""[^\s:@/"'<>]{0,200}:(?!\d{1,5}(?:[/?#\s"'<>)\]},]|$))[^\s"'<>]{0,500}(?=@)|[^\s/"'<>]{1,500}(?=@)"""
    ),
    "shaped": re.compile(
        rb"(?:eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"  # JSON web tokens
        rb"|(?:sk|pk|rk)[-_](?:[A-Za-z0-9]{1,12}[-_]){0,3}[A-Za-z0-9]{16,}"
        rb"|(?:gh[opsur]|hf|npm)_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}|(?:glpat|pypi)-[A-Za-z0-9_-]{16,}"
        rb"|xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}"
        rb"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}"
        rb"|SG\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
        rb"|S[AUONCX][A-Z2-7]{54,58}"  # seeds of the fabric's identities
        rb"|[0-9]{6,12}:[A-Za-z0-9_-]{30,})"  # tokens of Telegram's bots
        rb"(?![A-Za-z0-9_-])"
    ),
}
_JSON_KEY = re.compile(rb"""[^\\]"[ \t]*:\s*$""")
_COUNT = re.compile(rb"\d{1,9}(?![\w.-])")
_KEY_FILE = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)"
    r"|\A(?:(?!-----BEGIN [A-Z ]{0,30}PRIVATE).)*?-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
    re.DOTALL,
)
"""Also one of which an end is cut off."""
_UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PIECES = re.compile(rb"[-_/=]+")
_SPECIAL = frozenset(b"!#$%^&*+=~@/")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|" + _CONTROL.pattern
)


def redact(text: str, secrets: Iterable[str] = (), *, limit: int = LIMIT) -> str:
    """`text` without the given `secrets`, without what looks like one, and without control characters (colours,
    other orders to a terminal) but the ends of lines and tabs; at most `limit` characters long.

    Of long random words (32 characters and more) nothing is left either; an id in the form of a UUID stays. Quotes
    around a secret stay, so that a line in JSON stays one.
    """
    scan = min(_SCAN_MAX, 2 * limit + _MARGIN)
    if len(text) > scan:
        text = text[: scan - _MARGIN] + "…"
    text = plain(text)
    for secret in _known(secrets):
        if secret in text:
            text = text.replace(secret, MASK)
    if "PRIVATE KEY" in text:
        text = _KEY_FILE.sub(MASK, text)
    leads, runs = _scanners()
    data = _words(_scanned(text.encode(errors="replace"), leads), runs)
    text = data.decode(errors="replace")
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"


def said(text: str, secrets: Iterable[str] = (), *, limit: int = SAID_CHARS_MAX) -> str:
    """What may be kept and shown of what a stranger said, on one line."""
    return redact(" ".join(text.split()), secrets, limit=limit)


def plain(text: str) -> str:
    """The text without what orders a terminal about: it cannot recolour, move or hide what stands beside it."""
    if _CONTROL.search(text) is None:
        return text
    return _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def secrets_of(*specs: FleetSpec) -> list[str]:
    """Values of `secret_env`, each line of them by itself; the longest first."""
    values = {part for spec in specs for name in spec.secret_env for part in spec.env.get(name, "").splitlines()}
    return sorted((value for value in values if len(value) >= SECRET_CHARS_MIN), key=len, reverse=True)


# --- the parts


@functools.cache
def _scanners() -> tuple[Any, Any]:
    import re2  # not for every process that only writes a line

    leads = "|".join(f"(?P<{kind}>{lead})" for kind, lead in _LEADS.items())
    options = re2.Options()
    options.max_mem = 32 << 20
    return re2.compile(f"(?i){leads}".encode(), options), re2.compile(rb"[A-Za-z0-9_+/=-]{32,}")


def _known(secrets: Iterable[str]) -> list[str]:
    """The secrets and how they look in URLs and in JSON; longer ones first, as one may be a part of another."""
    found: set[str] = set()
    for secret in secrets:
        stripped = secret.strip()
        if len(stripped) >= SECRET_CHARS_MIN and len(found) < SECRETS_MAX:
            found |= {plain(stripped), quote(stripped, safe=""), stripped.encode("unicode_escape").decode()}
    return sorted(found, key=len, reverse=True)


def _scanned(data: bytes, leads: Any) -> bytes:
    """`data` without what follows leads."""
    parts: list[bytes] = []
    done = at = 0
    while (lead := leads.search(data, at)) is not None:
        found = _value(lead.lastgroup.decode(), lead, data)
        if found is None:
            at = lead.start() + 1
            continue
        start, end, instead = found
        end = _reaches(leads, data, start, end)
        parts += [data[done:start], instead]
        done = at = end
    return b"".join([*parts, data[done:]]) if parts else data


def _reaches(leads: Any, data: bytes, start: int, end: int) -> int:
    """Where a value ends: what was taken for it may itself lead to a secret, as in `token= password: x`."""
    at = start
    while (lead := leads.search(data, at)) is not None and lead.start() < end:
        found = _value(lead.lastgroup.decode(), lead, data)
        if found is not None:
            end = max(end, found[1])
        at = lead.start() + 1
    return end


def _value(kind: str, lead: Any, data: bytes) -> tuple[int, int, bytes] | None:
    """Where the secret behind a lead begins and ends, and what to put there; None: there is none."""
    mask, start = MASK.encode(), lead.end()
    if kind in ("phrase", "name", "short", "flag", "glued"):
        return _named(kind, lead.group(), data, start)
    if kind in ("spoken", "named"):
        word = _VALUES["spoken"].match(data, start)
        good = word is not None and _looks_secret(word[1], 4 if kind == "spoken" else 12)
        return (word.start(1), word.end(1), mask) if good and word is not None else None
    if kind == "cookie" and _OPEN.match(data, start):
        return _named(kind, lead.group(), data, start)
    if kind == "shaped":
        start = lead.start()
    if kind == "url" and data.find(b"@", start, start + _USER_CHARS_MAX) < 0:
        return None
    value = _VALUES["line" if kind == "cookie" else kind].match(data, start)
    return (value.start(), value.end(), mask) if value is not None else None


def _named(kind: str, lead: bytes, data: bytes, start: int) -> tuple[int, int, bytes] | None:
    """What has a name or a flag before it: a text in quotes, a list, or words."""
    mask = MASK.encode()
    if (kept := _DONE.match(data, start)) is not None:
        return start, kept.end(), mask
    if _EMPTY.match(data, start) is not None or (kind == "flag" and data[start : start + 1] == b"-"):
        return None
    if b"tokens" in lead.lower() and _COUNT.match(data, start) is not None:
        return None
    quote_ = b'"' if _JSON_KEY.search(lead) is not None else b""
    if (opened := _OPEN.match(data, start)) is not None:
        body = _BODIES[opened[1]].match(data, opened.end())
        end = body.end() if body is not None else opened.end()
        closed = data.startswith(opened[1], end)
        if closed:
            end += len(opened[1])
            more = _GLUED_ON.match(data, end)
            end = more.end() if more is not None else end
        return start, end, opened[0] + mask + (opened[1] if closed else b"")
    value = _GROUPED.match(data, start) or _WORDS["phrase" if kind == "phrase" else "one"].match(data, start)
    return (start, value.end(), quote_ + mask + quote_) if value is not None else None


def _looks_secret(word: bytes, size_min: int) -> bool:
    """Whether a word that merely follows a name is no word of a language: it mixes letters with digits, capitals or
    signs."""
    word = word.rstrip(b".,;:!?")
    if len(word) < size_min or word.startswith((b"/", b"./", b"-", b"[", b"http")):
        return False
    digits, letters = any(48 <= byte <= 57 for byte in word), any(byte >= 65 for byte in word)
    return (digits and letters) or any(byte in _SPECIAL for byte in word) or re.search(rb"[a-z][A-Z]", word) is not None


def _words(data: bytes, runs: Any) -> bytes:
    """`data` without long random words."""
    parts: list[bytes] = []
    done = 0
    while (run := runs.search(data, done)) is not None:
        word = run.group()
        parts += [data[done : run.start()], MASK.encode() if _random(word) else word]
        done = run.end()
    return b"".join([*parts, data[done:]]) if parts else data


def _random(word: bytes) -> bool:
    """A long word is a secret when a long piece of it is letters and digits mixed; paths and names are not."""
    if _UUID.fullmatch(word):
        return False
    random = any(_looks_random(piece) for piece in _PIECES.split(word))
    return random or (b"+" in word and any(48 <= byte <= 57 for byte in word))


def _looks_random(piece: bytes) -> bool:
    digits = sum(48 <= byte <= 57 for byte in piece)
    return len(piece) >= 20 and digits >= 2 and digits < len(piece)

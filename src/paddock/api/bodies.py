"""Bodies of requests: read with a limit, decoded strictly, mistakes told with their place. And the JSON answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from paddock.api.problems import NotJson, UnsupportedBody, nearest
from paddock.control.service import TaskRequest
from paddock.decide.rehearse import Rehearsal
from paddock.model.errors import Refused, TooLarge

T = TypeVar("T")

BODY_BYTES_MAX = 2_000_000
DRAIN_BYTES_MAX = 8_000_000
"""So much of a body that is too large is read and thrown away, so that its sender gets to read why: closing on a
sender makes its system drop our answer."""
DRAIN_S_MAX = 1.0
DEPTH_MAX = 100
"""Levels of nesting: far above any sane document, far below what any JSON library of an agent chokes on."""
MANIFESTS_MAX = 100


class ManifestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One manifest."""

    text: str
    """The YAML."""
    name: str = "manifest"
    """What messages call it: its file name."""
    folder: str = ""
    """The absolute folder, on the server's host, against which its relative paths are resolved."""


class ManifestsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Manifests to plan or to apply, all together."""

    manifests: list[ManifestBody]
    """1 to 100."""
    prune: bool = False
    """Also delete the fleets that are in none of them."""


class ScaleBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many agents a fleet should have."""

    replicas: int
    """0 or more."""


class HealBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to heal."""

    agent: str = ""
    """`fleet/name`; empty: everyone who is failed or quarantined."""


class AlertTestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which channel to try."""

    channel: str = ""
    """Its name; empty: all of them."""


class HealActionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do with an agent."""

    action: str
    """restart, restart-clean, reset-connection, redeploy, … : what its runtime offers."""


class RecoverBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do with an agent, in the words of older systems."""

    action: str = "restart"
    """restart, reboot, redeploy (or recreate), …"""


class CloseBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an incident is ended by hand. It is kept on one line, without secrets."""

    why: Annotated[str, msgspec.Meta(max_length=1000)] = ""


INPUTS = (
    ManifestBody,
    ManifestsBody,
    ScaleBody,
    HealBody,
    HealActionBody,
    RecoverBody,
    CloseBody,
    AlertTestBody,
    Rehearsal,
    TaskRequest,
)


class Json(Response):
    """An answer encoded by msgspec: structs, mappings and lists of them."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


async def read_body(request: Request, *, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The body, if it is within the limit; a chunked one is given up as soon as it is over."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedBody(f"Content-Encoding {encoding[:40]!r} is not read here: send the body as it is")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > bytes_max:
        await _drain(request)
        raise TooLarge(f"the body has {length[:20]} bytes, the limit is {bytes_max:,}")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > bytes_max:
            await _drain(request)
            raise TooLarge(f"the body is over the limit of {bytes_max:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _drain(request: Request) -> None:
    size = 0
    try:
        async with asyncio.timeout(DRAIN_S_MAX):
            async for part in request.stream():
                size += len(part)
                if size > DRAIN_BYTES_MAX:
                    return
    except (TimeoutError, ClientDisconnect):
        pass  # who is slow, or gone, misses the reason; we do not wait for that


def decode(data: bytes, kind: type[T]) -> T:
    """`data` as `kind`, or NotJson or Refused with the place of the mistake."""
    if not data:
        raise NotJson("the body is empty; send JSON")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise NotJson(f"the body is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    _check_depth(text)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise Refused(_refusal(str(error), kind)) from None
    except msgspec.DecodeError as error:
        raise NotJson(_malformed(str(error), data)) from None


_TOKENS = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _check_depth(text: str) -> None:
    """Refuse before decoding, so that no decoder here or in an agent runs out of stack. Strings are skipped whole."""
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return
    depth = 0
    for token in _TOKENS.finditer(text):
        first = token[0][0]
        if first in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise Refused(f"the body is nested more than {DEPTH_MAX} levels deep (at character {token.start()})")
        elif first in "]}":
            depth -= 1


def _malformed(text: str, data: bytes) -> str:
    found = re.search(r"\(byte (\d+)\)", text)
    at = int(found[1]) if found else len(data)
    line = data.count(b"\n", 0, at) + 1
    column = at - (data.rfind(b"\n", 0, at) + 1) + 1
    rest = data[at : at + 9]
    # msgspec points one byte into -Infinity: at the I.
    for literal in (b"NaN", b"Infinity"):
        if rest.startswith(literal):
            return f"{literal.decode()} at line {line}, column {column} is not JSON: numbers must be finite; send null"
    if rest.startswith(b"\xef\xbb\xbf"):
        return "the body starts with a byte order mark, which is not JSON: send UTF-8 without it"
    reason = re.sub(r"^JSON is malformed: |\s*\(byte \d+\)", "", text).removeprefix("Input data was ")
    return f"the body is not JSON: {reason} at line {line}, column {column}"


def _refusal(text: str, kind: type[Any]) -> str:
    """`Object contains unknown field `fleat` - at `$.x[...]`` and its like, as a sentence with place and help."""
    reason, _, path = text.partition(" - at `$")
    place = path.rstrip("`").lstrip(".")
    where = f"body, at {place}: " if place else "body: "
    word = re.fullmatch(r"Invalid enum value (.*)", reason, re.DOTALL)
    if word is not None:
        known = _words_at(kind, place)
        return f"{where}{word[1][:100]} is none of {', '.join(known)}{nearest(word[1].strip(chr(39)), known)}"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", reason, re.DOTALL)
    if unknown is None:
        reason = reason.replace("`", "'")
        return f"{where}{reason[:1].lower()}{reason[1:]}"
    known = _fields_at(kind, place)
    return f"{where}unknown field {unknown[1][:100]!r}{nearest(unknown[1], known)} (known: {', '.join(known)})"


def _fields_at(kind: type[Any], place: str) -> list[str]:
    """Names of the fields of the struct that a place such as `manifests[0]` points to."""
    here = _type_at(kind, place)
    return [field.encode_name for field in here.fields] if isinstance(here, msgspec.inspect.StructType) else []


def _words_at(kind: type[Any], place: str) -> list[str]:
    """The values of the enumeration there."""
    here = _type_at(kind, place)
    return [str(word.value) for word in here.cls] if isinstance(here, msgspec.inspect.EnumType) else []


def _type_at(kind: type[Any], place: str) -> Any:
    here: Any = msgspec.inspect.type_info(kind)
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", place):
        if isinstance(here, msgspec.inspect.StructType):
            here = next((field.type for field in here.fields if field.encode_name == step), None)
        elif isinstance(here, msgspec.inspect.ListType):
            here = here.item_type
    return here


def body_of(kind: type[T]) -> Callable[[Request], Any]:
    """A FastAPI dependency: the request's body as `kind`."""

    async def read(request: Request) -> T:
        return decode(await read_body(request), kind)

    return read


def optional_body_of(kind: type[T]) -> Callable[[Request], Any]:
    """The same, where no body means an empty object."""

    async def read(request: Request) -> T:
        return decode(await read_body(request) or b"{}", kind)

    return read

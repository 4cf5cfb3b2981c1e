"""JetStream's side of things: its JSON, its headers, its error codes, and how a stream of ours is configured there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from paddock.model.errors import Conflict, NotFound, PaddockError, QueueFull, Unavailable
from paddock.ports.fabric import Stored, StreamSpec


class ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class ApiReply(msgspec.Struct):
    error: ApiError | None = None
    seq: int = 0
    purged: int = 0
    created: str = ""
    state: dict[str, Any] = {}
    config: dict[str, Any] = {}


NO_STORE, NO_STORE_TEXT = 10049, "error creating store for stream"
"""The broker could not make the folder of a stream; its log says why. (The code has other reasons, too.)"""

reply_decoder = msgspec.json.Decoder(ApiReply)


class PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: ApiError | None = None


def translate(error: ApiError, where: str) -> PaddockError:
    """By JetStream's error codes (server/errors.json)."""
    text = f"{where}: {error.description}"
    if error.err_code in (10071, 10164) or (error.err_code == 10077 and "per subject" in error.description):
        return Conflict(f"{where} exists already or was changed meanwhile")
    if error.err_code == 10077:
        return QueueFull(f"the queue of {where.split('.')[1] if '.' in where else where} is full")
    if error.err_code in (10059, 10014):
        return NotFound(text)
    if error.err_code in (10058, 10148):
        return Conflict(text)
    if error.err_code == NO_STORE and NO_STORE_TEXT in error.description:
        return Unavailable(text)
    if error.code == 503 or error.err_code in (10047, 10023, 10028):
        return Unavailable(text)
    return PaddockError(text)


def duplicates_s(spec: StreamSpec) -> float:
    """How long a stream knows the ids (`Nats-Msg-Id`) of what it stored: for as long as who wrote it may try again.
    What goes to queues and buckets has none; there a short memory is enough."""
    known_s = 0.1 if spec.work_queue or spec.last_per_subject else 120.0
    return min(known_s, spec.age_s_max or known_s)


def stream_config(spec: StreamSpec) -> dict[str, Any]:
    bounded = spec.messages_max >= 0 or spec.unique_subjects
    return {
        "name": spec.name,
        "subjects": spec.subjects,
        "retention": "workqueue" if spec.work_queue else "limits",
        "storage": "file",
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "max_msgs": spec.messages_max,
        "max_age": int(spec.age_s_max * 1e9),
        "max_msgs_per_subject": 1 if spec.unique_subjects or spec.last_per_subject else -1,
        "discard": "new" if bounded else "old",
        "discard_new_per_subject": spec.unique_subjects and not spec.work_queue,
        "duplicate_window": int(duplicates_s(spec) * 1e9),
    }


def stored_of(headers: Mapping[str, str], data: bytes) -> Stored:
    own: dict[str, str] = {}
    if not headers.keys() <= _PLACE:
        own = {name: value for name, value in headers.items() if name not in _PLACE}
    at = datetime.fromisoformat(headers["Nats-Time-Stamp"][:26].rstrip("Z") + "+00:00").timestamp()
    return Stored(headers["Nats-Subject"], int(headers["Nats-Sequence"]), at, data, own)


_PLACE = frozenset(
    ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence")
)

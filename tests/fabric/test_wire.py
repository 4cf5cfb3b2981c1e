from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.fabric.wire import LINE_BYTES_MAX, Parser, ProtocolError, frame, parse_headers

STREAM = (
    b'INFO {"nonce":"x"}\r\nPING\r\nMSG a.b 7 5\r\nhello\r\nMSG a.b 7 back.1 2\r\n\r\n\r\n'
    b"HMSG c 8 28 33\r\nNATS/1.0 404 No Messages\r\n\r\nwhole\r\n+OK\r\n-ERR 'nope'\r\nMSG d 1 0\r\n\r\n"
)
EXPECTED = [
    (b"INFO", b'{"nonce":"x"}'),
    (b"PING", b""),
    (7, "a.b", "", b"", b"hello"),
    (7, "a.b", "back.1", b"", b"\r\n"),
    (8, "c", "", b"NATS/1.0 404 No Messages\r\n\r\n", b"whole"),
    (b"+OK", b""),
    (b"-ERR", b"'nope'"),
    (1, "d", "", b"", b""),
]


def parse(*chunks: bytes) -> list[tuple[object, ...]]:
    seen: list[tuple[object, ...]] = []
    parser = Parser(lambda *message: seen.append(message), lambda *control: seen.append(control))
    for chunk in chunks:
        parser.feed(chunk)
    return seen


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_messages_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parse(*(STREAM[a:b] for a, b in pairwise(edges))) == EXPECTED


@pytest.mark.parametrize("garbage", [b"MSG a b c\r\n", b"MSG \r\n", b"HMSG a 1 x 3\r\n", b"x" * (LINE_BYTES_MAX + 1)])
def test_garbage_is_an_error_and_not_a_message(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(garbage)


def test_what_is_framed_parses_back() -> None:
    sent = frame("work.x", b"body", "re.ply", {"A": "1", "B": "two words"})
    assert sent.startswith(b"HPUB work.x re.ply ")
    _, _, reply, head_size, size = sent.split(b"\r\n")[0].split()
    assert reply == b"re.ply"
    body = sent.split(b"\r\n", 1)[1]
    assert parse_headers(body[: int(head_size)]) == ("", {"A": "1", "B": "two words"})
    assert body[int(head_size) : int(size)] == b"body"


def test_a_status_line_is_told_apart_from_headers() -> None:
    assert parse_headers(b"NATS/1.0 503\r\n\r\n") == ("503", {})
    assert parse_headers(b"NATS/1.0\r\nX: a:b\r\n\r\n") == ("", {"X": "a:b"})
    assert parse_headers(b"") == ("", {})

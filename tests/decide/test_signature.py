"""Signatures: what is masked, what is telling, and which cause the end of an incarnation points to."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.signature import (
    LINES_MAX,
    SIGNATURE_CHARS_MAX,
    cause_of,
    digest,
    from_outside,
    mask,
    outside,
    signature,
    telling,
)
from paddock.model.agent import Evidence, Exit
from paddock.model.policy import Cause


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("ValueError: no price for 'user-42' at 0x7f3a2b", "ValueError: no price for <text> at <hex>"),
        ("2026-01-02T03:04:05.1Z failed: 10.0.0.1:5432", "<time> failed: <address>"),
        ("Error: connect ECONNREFUSED 127.0.0.1:9000", "Error: connect ECONNREFUSED <address>"),
        ("cannot read /var/lib/x/y.db (13)", "cannot read <path> (<n>)"),
        ("cannot read C:\\data\\y.db", "cannot read <path>"),
        ("doesn't work and won't, worker7", "doesn't work and won't, worker<n>"),
        ("job 123e4567-e89b-12d3-a456-426614174000 of me@x.org", "job <id> of <mail>"),
        ("key a1b2c3d4e5f6 at https://u:p@h.io/x?y=1", "key <hex> at <url>"),
        ("db.local:5432 or fe80::1:2 or localhost:80", "<address> or <address> or <address>"),
        ("\x1b[31mfatal\x1b[0m:  out\tof 3.5 GB", "fatal: out of <n> GB"),
    ],
)
def test_what_differs_is_masked(line: str, masked: str) -> None:
    assert mask(line) == masked


def test_the_telling_line_is_the_exception_or_the_last_that_speaks_of_an_error() -> None:
    python = ["starting", "Traceback (most recent call last):", '  File "a.py", line 3', "KeyError: 'a'", "bye"]
    assert telling(python) == "KeyError: 'a'"
    assert telling(["connection refused by upstream", "tick 5"]) == "connection refused by upstream"
    assert telling(['{"level":"error","event":"no disk","n":3}', "tick"]) == "error: no disk"
    assert telling(["tick 4", "tick 5", ""]) == ""
    node = ["Error: Cannot find module 'x'", "    at Module._load (node:internal:1)", "Node.js v18"]
    assert telling(node) == "Error: Cannot find module 'x'"


def test_alike_failures_have_one_signature_and_different_ones_do_not() -> None:
    one = signature(Cause.CRASH, "exit code 3", ["ValueError: no price for 'a'"])
    assert one == "crash: exit code <n>: ValueError: no price for <text>"
    assert one == signature(Cause.CRASH, "exit code 3", ["tick", "ValueError: no price for 'b'", "tick 9"])
    assert one != signature(Cause.CRASH, "exit code 3", ["KeyError: 'b'"])
    assert len({digest(one), digest(signature(Cause.HANG, "exit code 3"))}) == 2


def ended(reason: str, **more: Any) -> Evidence:
    return Evidence(**{"at": 1.0, "epoch": 1, "pid": 7, "exit": Exit(code=1), "reason": reason, **more})


def test_a_kill_from_outside_says_nothing_of_the_agent() -> None:
    killed = ended("killed by SIGKILL, before it was ready", exit=Exit(signal=9))
    assert outside(killed)
    text = signature(cause_of(killed), killed.reason, ["ValueError: long ago"])
    assert text == "crash: killed from outside by SIGKILL"
    assert from_outside(text)
    for own in (
        ended("killed by SIGSEGV", exit=Exit(signal=11)),
        ended("killed for using more memory than it may", exit=Exit(signal=9, oom=True)),
        ended("no beat for 10.0 s: hung", exit=Exit(signal=9)),
        ended("exit code 1"),
    ):
        assert not outside(own)
        assert not from_outside(signature(Cause.CRASH, own.reason))


def test_the_cause_is_read_from_the_evidence() -> None:
    assert cause_of(ended("exit code 1")) is Cause.CRASH
    assert cause_of(ended("exit code 1", exit=Exit(signal=9, oom=True))) is Cause.OOM
    assert cause_of(ended("exit code 1", last_lines=["MemoryError"])) is Cause.OOM
    assert cause_of(ended("no beat for 10.0 s: hung")) is Cause.HANG
    assert cause_of(ended("its health probe failed 3 times in a row, last: 503")) is Cause.ENDPOINT_DOWN
    assert cause_of(ended("exit code 1, before it was ready")) is Cause.NOT_STARTED
    assert cause_of(ended("not ready within 60 s")) is Cause.NOT_STARTED
    assert cause_of(ended("no such command", pid=None, exit=Exit())) is Cause.NOT_STARTED
    assert cause_of(ended("crash loop: 11 deaths in 60 s, last: exit code 1")) is Cause.CRASH_LOOP
    assert cause_of(ended("exit code 1"), quarantined=True) is Cause.CRASH_LOOP
    assert cause_of(ended("exit code 1, before it was ready"), dependencies_down=["db"]) is Cause.DEPENDENCY
    assert cause_of(ended("killed by SIGKILL", exit=Exit(signal=9)), dependencies_down=["db"]) is Cause.CRASH


@given(st.text(max_size=3000))
def test_any_line_is_masked_bounded_and_without_digits(line: str) -> None:
    found = mask(line)
    assert len(found) <= SIGNATURE_CHARS_MAX
    assert not re.search(r"\d", found)
    assert found == mask(line)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_numbers_and_quoted_text_never_make_a_difference(one: int, other: int, said: str, instead: str) -> None:
    assert mask(f"job {one} on port {one} said '{said}' after {one} s") == mask(
        f"job {other} on port {other} said '{instead}' after {other} s"
    )


@given(st.sampled_from(list(Cause)), st.text(max_size=500), st.lists(st.text(max_size=200), max_size=LINES_MAX + 5))
def test_a_signature_of_anything_is_one_bounded_line(cause: Cause, reason: str, lines: list[str]) -> None:
    found = signature(cause, reason, lines)
    assert found.startswith(f"{cause}")
    assert len(found) <= SIGNATURE_CHARS_MAX
    assert "\n" not in found
    assert re.fullmatch("[0-9a-f]{12}", digest(found))

"""Who waits until something is on disk, and how many ask for it together. (With a real syncer: `test_syncer.py`.)"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paddock.fabric import groups
from paddock.fabric.groups import ALL, Groups
from paddock.model.errors import NoResponders, PaddockError, Refused, TimedOut, Unavailable, Unsynced
from paddock.ports.fabric import Message
from paddock.testing.wait import soon


class Syncer:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self._open: list[tuple[str, asyncio.Future[bytes]]] = []

    async def ask(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        self.asked.append((subject, data))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._open.append((subject, answer))
        return Message(subject="_INBOX.1", data=await answer)

    async def answers(self, said: bytes | PaddockError = b"", subject: str = "sync.A") -> None:
        """To the oldest question at `subject`, once there is one."""
        found = await soon(lambda: self._oldest(subject), what=f"a question at {subject}")
        self._open.remove(found)
        found[1].set_exception(said) if isinstance(said, PaddockError) else found[1].set_result(said)
        for _ in range(5):
            await asyncio.sleep(0)

    async def _oldest(self, subject: str) -> tuple[str, asyncio.Future[bytes]] | None:
        return next((each for each in self._open if each[0] == subject), None)


def waits(held: Groups, stream: str = "A") -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(held.on_disk(stream), name="waits")


@pytest.fixture
async def syncer() -> Syncer:
    return Syncer()


@pytest.fixture
async def held(syncer: Syncer) -> Groups:
    return Groups(syncer.ask)


async def test_who_waits_at_the_same_time_shares_a_question(held: Groups, syncer: Syncer) -> None:
    all_of_us = [waits(held) for _ in range(5)]
    await syncer.answers()
    await asyncio.gather(*all_of_us)
    assert syncer.asked == [("sync.A", b"")]


async def test_who_comes_while_it_is_asked_is_not_answered_by_that(held: Groups, syncer: Syncer) -> None:
    """What it stored may have come after that sync had begun."""
    first = waits(held)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(syncer.asked) == 1
    later = [waits(held), waits(held)]
    await syncer.answers()
    await first
    assert not any(one.done() for one in later)
    await syncer.answers()
    await asyncio.gather(*later)
    assert len(syncer.asked) == 2


async def test_streams_do_not_wait_for_each_other(held: Groups, syncer: Syncer) -> None:
    slow, quick = waits(held, "A"), waits(held, "B")
    await syncer.answers(subject="sync.B")
    await quick
    assert not slow.done()
    await syncer.answers(subject="sync.A")
    await slow


async def test_one_that_gives_up_takes_nothing_from_the_others(held: Groups, syncer: Syncer) -> None:
    leaves, stays = waits(held), waits(held)
    await asyncio.sleep(0)
    leaves.cancel()
    await syncer.answers()
    await stays
    assert leaves.cancelled()


async def test_a_text_fails_all_who_asked_together_and_nobody_after_them(held: Groups, syncer: Syncer) -> None:
    failing = [waits(held), waits(held)]
    await syncer.answers(b"Input/output error")
    for one in failing:
        with pytest.raises(Unavailable, match="A cannot be put on disk: Input/output error"):
            await one
    well = waits(held)
    await syncer.answers()
    await well


@pytest.mark.parametrize("silence", [NoResponders("nobody"), TimedOut("no answer")])
async def test_a_syncer_that_is_away_is_asked_again(held: Groups, syncer: Syncer, silence: PaddockError) -> None:
    one = waits(held)
    for _ in range(3):
        await syncer.answers(silence)
    await syncer.answers()
    await one
    assert len(syncer.asked) == 4


async def test_one_that_stays_away_is_told_of(held: Groups, syncer: Syncer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GIVE_UP_S", 0.0)
    one = waits(held)
    await syncer.answers(NoResponders("nobody"))
    with pytest.raises(Unsynced, match="the syncer does not answer"):
        await one


async def test_whatever_else_goes_wrong_is_told_to_who_waits(held: Groups, syncer: Syncer) -> None:
    one = waits(held)
    await syncer.answers(Refused("not allowed"))
    with pytest.raises(Refused):
        await one


async def test_nobody_waits_for_a_connection_that_was_closed(held: Groups, syncer: Syncer) -> None:
    asked = waits(held)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = waits(held)
    await asyncio.sleep(0)
    held.close()
    for one in (asked, waiting):
        with pytest.raises(Unavailable, match="closed"):
            await asyncio.wait_for(one, 10)


async def test_nor_does_who_came_in_the_very_turn_in_which_it_was_closed(held: Groups, syncer: Syncer) -> None:
    one = waits(held)
    await asyncio.sleep(0)
    assert not syncer.asked, "the question has not been begun"
    held.close()
    with pytest.raises(Unavailable, match="closed"):
        await asyncio.wait_for(one, 10)
    with pytest.raises(Unavailable, match="closed"):
        await asyncio.wait_for(waits(held), 10)


async def test_a_question_of_its_own_is_asked_at_once(held: Groups, syncer: Syncer) -> None:
    shared = waits(held)
    own: asyncio.Task[Any] = asyncio.ensure_future(held.ask("A", ALL))
    await syncer.answers()
    await syncer.answers()
    await asyncio.gather(shared, own)
    assert sorted(syncer.asked) == [("sync.A", b""), ("sync.A", ALL)]

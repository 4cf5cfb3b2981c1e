"""People are told, whatever breaks: channels, the server, the fabric; and nobody is told twice or left in the dark."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from paddock.control import outlet
from paddock.control.alerts import INBOX_MAX, KEPT_BYTES_MAX
from paddock.fabric import subjects
from paddock.model.agent import Event
from paddock.model.errors import Conflict, Denied, NotFound, PaddockError, Refused, Unavailable
from paddock.model.incident import Severity
from paddock.model.notify import Alert, Channel, Message
from paddock.ports.alerts import PartlyRefused, Sender
from paddock.testing.loop import run

from .world import World

NOTIFY = """
paddock: 1
fleets:
  critic: {agent: "lab:Critic", env: {KEY: hunter22-key}, secret_env: [KEY]}
notifications:
  channels:
    - {name: mail, kind: log}
    - {name: chat, kind: log}
  cooldown_s: 5m
  group_s: 5s
"""


class Post:
    """What channels of a test do: whatever `faults` say, else they take the message."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.tries: list[str] = []
        self.faults: dict[str, PaddockError | Exception | str] = {}
        """channel → what its sender raises, or "hang"."""
        self.made = self.closed = 0

    def __call__(self, channel: Channel) -> Sender:
        self.made += 1
        return PostBox(self, channel.name)

    def titles(self, channel: str) -> list[str]:
        return [message.title for name, message in self.sent if name == channel]


class PostBox:
    def __init__(self, post: Post, name: str) -> None:
        self._post, self._name = post, name

    async def send(self, message: Message) -> None:
        self._post.tries.append(self._name)
        fault = self._post.faults.get(self._name)
        if fault == "hang":
            await asyncio.Event().wait()
        if isinstance(fault, PartlyRefused):
            self._post.sent.append((self._name, message))
        if isinstance(fault, Exception):
            raise fault
        self._post.sent.append((self._name, message))

    async def close(self) -> None:
        self._post.closed += 1


class Desk(World):
    def __init__(self) -> None:
        super().__init__()
        self.post = Post()
        self.senders = self.post

    def tell(self, key: str = "k", severity: Severity = Severity.ERROR, **more: Any) -> None:
        known: dict[str, Any] = {"key": key, "at": self.clock.now(), "severity": severity, "about": "critic/0"}
        self.server.alerts.tell(Alert(**(known | {"title": f"{key} is down"} | more)))

    def end_of(self, key: str = "k") -> None:
        self.tell(key, Severity.INFO, title=f"{key} is well", recovered=True)

    async def until_sent(self, channel: str, *titles: str) -> None:
        await self.until(lambda: self.post.titles(channel) == list(titles), f"{channel} told {titles}", limit_s=1000)

    async def events(self, kind: str) -> list[str]:
        stored = await self.fabric.read(subjects.EVENTS, subject=f"event.{kind}", limit=1000)
        return [msgspec.json.decode(one.data, type=Event).text for one in stored]

    async def kept(self) -> dict[str, Any]:
        stored = await self.fabric.last(subjects.STATE, subjects.alerts_kept())
        return msgspec.json.decode(stored.data) if stored is not None else {}


def desk(scenario: Callable[[Desk], Any], *, manifest: str = NOTIFY) -> None:
    async def main() -> None:
        lab = Desk()
        try:
            await lab.start(manifest=manifest)
            await scenario(lab)
            await lab.end()
            assert lab.post.closed == lab.post.made
        finally:
            lab.record.close()

    run(main)


# -- telling -----------------------------------------------------------------------------------------------------------


def test_an_alert_and_its_end_reach_people_and_the_history() -> None:
    async def scenario(lab: Desk) -> None:
        lab.tell()
        await lab.until_sent("mail", "[error] critic/0: k is down")
        lab.end_of()
        for channel in ("mail", "chat"):
            await lab.until_sent(channel, "[error] critic/0: k is down", "[recovered] critic/0: k is well")
        await asyncio.sleep(1)  # virtual: nothing more may come in it
        assert await lab.events("alert.sent.mail") == [
            "told by mail: [error] critic/0: k is down",
            "told by mail: [recovered] critic/0: k is well",
        ]
        assert (await lab.server.status())["alerts"] == {"mail": "ok", "chat": "ok"}

    desk(scenario)


def test_no_secret_goes_out() -> None:
    async def scenario(lab: Desk) -> None:
        lab.tell(title="said hunter22-key", text="Authorization: Bearer abcdef-123 and hunter22-key")
        await lab.until_sent("mail", "[error] critic/0: said [redacted]")
        assert "hunter22" not in lab.post.sent[0][1].text
        assert "abcdef" not in lab.post.sent[0][1].text
        assert "hunter22" not in str(await lab.kept())

    desk(scenario)


def test_other_notifications_count_from_when_they_are_applied() -> None:
    async def scenario(lab: Desk) -> None:
        lab.tell("a")
        await lab.until_sent("mail", "[error] critic/0: a is down")
        plan = await lab.apply("paddock: 1\nnotifications: {channels: [{name: pager, kind: log}], group_s: 0}")
        assert plan.notifications == "notifications: add pager (log), remove mail, remove chat, other routes or times"
        lab.tell("b")
        await lab.until_sent("pager", "[error] critic/0: b is down")
        lab.end_of("a")  # who heard of it is gone
        lab.end_of("b")
        await lab.until_sent("pager", "[error] critic/0: b is down", "[recovered] critic/0: b is well")
        assert len(lab.post.titles("mail")) == 1
        again = await lab.apply("paddock: 1\nfleets: {}")
        assert (again.notifications, list((await lab.server.status())["alerts"])) == ("", ["pager"])
        assert await lab.events("notifications.applied.notifications") == [
            "notifications: add mail (log), add chat (log)",
            "notifications: add pager (log), remove mail, remove chat, other routes or times",
        ]

    desk(scenario)


def test_two_who_change_notifications_at_once_do_not_mix() -> None:
    async def scenario(lab: Desk) -> None:
        other = "paddock: 1\nnotifications: {channels: [{name: pager, kind: log}]}"
        key = f"$KV.wanted.{subjects.wanted_notifications()}"
        lab.server._mirror.notifications_seq -= 1  # as if somebody's change had not been seen yet
        with pytest.raises(Conflict, match="notifications were changed by somebody else meanwhile"):
            await lab.apply(other)
        stored = await lab.fabric.last(subjects.WANTED, key)
        assert stored is not None
        assert b"pager" not in stored.data

    desk(scenario)


def test_a_task_probe_asks_for_a_method_that_there_is() -> None:
    async def scenario(lab: Desk) -> None:
        for probe, told in (
            ("method: reviw, expect: {equals: 1}", "asks for 'reviw', which is no method of it"),
            ("method: review, args: {sauce: x}, expect: {equals: 1}", "probe 'p' of critic: "),
        ):
            health = f"{{probes: [{{name: p, kind: task, {probe}}}]}}"
            with pytest.raises(Refused, match=told):
                await lab.apply(f"paddock: 1\nfleets: {{critic: {{agent: 'lab:Critic', health: {health}}}}}")

    desk(scenario)


def test_the_status_says_what_came_of_a_test() -> None:
    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = Refused("the variable CHAT_TOKEN is not set")
        assert [one.ok for one in await lab.server.alerts.test(by="ann")] == [True, False]
        told = (await lab.server.status())["alerts"]
        assert told["mail"] == "ok"
        assert told["chat"].startswith("failing since ")
        assert "the variable CHAT_TOKEN is not set" in told["chat"]
        await lab.until_sent("mail", "[info] Paddock can reach you", "[error] channel chat fails")
        del lab.post.faults["chat"]
        assert [one.ok for one in await lab.server.alerts.test("chat", by="ann")] == [True]
        assert (await lab.server.status())["alerts"]["chat"] == "ok"

    desk(scenario)


# -- channels that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["hang", Unavailable("it is away"), RuntimeError("a slip")], ids=str)
def test_a_failing_channel_holds_up_no_other_and_is_told_of_by_them(fault: Any) -> None:
    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = fault
        lab.tell("a")
        await lab.until_sent("mail", "[error] critic/0: a is down", "[error] channel chat fails")
        assert (await lab.server.status())["alerts"]["mail"] == "ok"
        assert (await lab.server.status())["alerts"]["chat"].startswith("failing since 20")
        lab.tell("b")
        await lab.until(lambda: "[error] critic/0: b is down" in lab.post.titles("mail"), "mail goes on")
        del lab.post.faults["chat"]
        await lab.until_sent("chat", "[error] critic/0: a is down", "[error] critic/0: b is down")
        await lab.until(lambda: lab.post.titles("mail")[-1] == "[recovered] channel chat works again", "mail tells")
        assert (await lab.server.status())["alerts"] == {"mail": "ok", "chat": "ok"}
        assert len(await lab.events("alert.failed.chat")) == 1

    desk(scenario)


@pytest.mark.parametrize("error", [Refused("no such chat"), Denied("wrong token")], ids=lambda error: error.code)
def test_what_is_refused_for_good_is_not_tried_again(error: PaddockError) -> None:
    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = error
        lab.tell()
        await lab.until_sent("mail", "[error] critic/0: k is down", "[error] channel chat fails")
        assert lab.post.tries.count("chat") == 1
        told = (await lab.server.status())["alerts"]["chat"]
        assert told.endswith(f": {error.message}; 1 given up")
        assert await lab.events("alert.failed.chat") == [
            f"channel chat fails: {error.message}",
            f"not told by chat: [error] critic/0: k is down ({error.message})",
        ]
        # Its people know of nothing, so they need no word of the end.
        del lab.post.faults["chat"]
        lab.end_of()
        await lab.until(lambda: "[recovered] critic/0: k is well" in lab.post.titles("mail"), "mail tells the end")
        assert lab.post.titles("chat") == []

    desk(scenario)


def test_what_some_have_counts_as_told_and_the_rest_is_said() -> None:
    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = PartlyRefused("nobody is called ben")
        lab.tell()
        await lab.until_sent("mail", "[error] critic/0: k is down", "[error] channel chat fails")
        lab.end_of()
        await lab.until_sent("chat", "[error] critic/0: k is down", "[recovered] critic/0: k is well")
        assert "nobody is called ben" in (await lab.server.status())["alerts"]["chat"]

    desk(scenario)


def test_old_news_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "AGE_S_MAX", 1200.0)

    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = Unavailable("it is away")
        lab.tell()
        await asyncio.sleep(outlet.AGE_S_MAX + 120)
        assert (await lab.server.status())["alerts"]["chat"].endswith("it is away; 1 given up")
        tries = lab.post.tries.count("chat")
        assert 20 <= tries <= 30  # once a minute, and a few at the start
        await asyncio.sleep(600)
        assert lab.post.tries.count("chat") == tries

    desk(scenario)


def test_a_queue_that_is_full_gives_up_its_oldest() -> None:
    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = "hang"
        for number in range(outlet.QUEUE_MAX + 10):
            lab.tell(f"n{number}")
            await asyncio.sleep(6)
        await lab.until(lambda: f"[error] critic/0: n{outlet.QUEUE_MAX + 9} is down" in lab.post.titles("mail"), "told")
        del lab.post.faults["chat"]
        last = f"[error] critic/0: n{outlet.QUEUE_MAX + 9} is down"
        await lab.until(lambda: last in lab.post.titles("chat"), "chat goes on", limit_s=600)
        assert "[error] critic/0: n0 is down" not in lab.post.titles("chat")
        assert len(lab.post.titles("chat")) <= outlet.QUEUE_MAX + 2
        assert " given up" in (await lab.server.status())["alerts"]["chat"]

    desk(scenario)


def test_a_flood_of_alerts_is_bounded_and_counted() -> None:
    async def scenario(lab: Desk) -> None:
        for number in range(INBOX_MAX + 500):
            lab.tell(f"n{number}", text="x" * 5000)
        await lab.until(lambda: lab.post.titles("mail") != [], "mail tells")
        [(_, message)] = [one for one in lab.post.sent if one[0] == "mail"]
        assert message.text.endswith(f"… and {INBOX_MAX + 500 - len(message.alerts):,} more")
        assert len(msgspec.json.encode(await lab.kept())) < KEPT_BYTES_MAX

    desk(scenario)


# -- a server that dies ------------------------------------------------------------------------------------------------


def test_a_server_that_comes_back_repeats_nothing_and_tells_the_end() -> None:
    async def scenario(lab: Desk) -> None:
        lab.tell()
        await lab.until_sent("chat", "[error] critic/0: k is down")
        await asyncio.sleep(1)
        await lab.replace()
        lab.tell()
        await asyncio.sleep(60)
        assert lab.post.titles("chat") == ["[error] critic/0: k is down"]
        lab.end_of()
        await lab.until_sent("chat", "[error] critic/0: k is down", "[recovered] critic/0: k is well")

    desk(scenario)


def test_what_was_not_sent_is_sent_by_the_next_server() -> None:
    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = Unavailable("it is away")
        lab.tell()
        await lab.until_sent("mail", "[error] critic/0: k is down", "[error] channel chat fails")
        await lab.server.stop()
        del lab.post.faults["chat"]
        await lab.serve()
        await lab.until_sent("chat", "[error] critic/0: k is down")
        assert lab.post.titles("mail").count("[error] critic/0: k is down") == 1
        await lab.until(lambda: not lab.server.alerts._dirty, "all is stored")
        assert (await lab.kept())["outbox"] == {}

    desk(scenario)


@pytest.mark.parametrize("steps", range(0, 120, 4))
def test_a_server_killed_at_any_await_forgets_nothing(steps: int) -> None:
    async def scenario(lab: Desk) -> None:
        await lab.server.stop()
        process = await lab.serve_mortal()
        lab.tell("before")
        await lab.until_sent("mail", "[error] critic/0: before is down")
        await asyncio.sleep(1)
        lab.tell("k")
        process.kill_after(steps)
        await lab.until(lambda: not process.alive, "it is dead", limit_s=600)
        await lab.serve()
        lab.tell("k")  # who tells looks at what is, and tells it again
        title = "[error] critic/0: k is down"
        await lab.until(lambda: title in lab.post.titles("mail") and title in lab.post.titles("chat"), "it is told")
        await asyncio.sleep(30)
        for channel in ("mail", "chat"):
            assert lab.post.titles(channel).count("[error] critic/0: before is down") == 1
            assert 1 <= lab.post.titles(channel).count(title) <= 2
        lab.end_of("before")
        await lab.until(lambda: "[recovered] critic/0: before is well" in lab.post.titles("chat"), "the end is told")

    # The killed server's senders are closed by nobody: that is what a kill is.
    async def main() -> None:
        lab = Desk()
        try:
            await lab.start(manifest=NOTIFY)
            await scenario(lab)
            await lab.end()
        finally:
            lab.record.close()

    run(main)


def test_people_are_told_while_nothing_can_be_stored() -> None:
    async def scenario(lab: Desk) -> None:
        lab.broker.stop()
        lab.tell(title="the disk is full")
        await lab.until_sent("mail", "[error] critic/0: the disk is full")
        lab.broker.start()
        await lab.until(lambda: not lab.server.alerts._dirty, "it is stored once that goes again")
        assert "k" in (await lab.kept())["state"]["told"]

    desk(scenario)


def test_what_cannot_be_read_begins_anew() -> None:
    async def scenario(lab: Desk) -> None:
        await lab.server.stop()
        await lab.fabric.store(subjects.alerts_kept(), b"\x00 not ours")
        await lab.serve()
        lab.tell()
        await lab.until_sent("mail", "[error] critic/0: k is down")

    desk(scenario)


# -- trying it ---------------------------------------------------------------------------------------------------------


def test_channels_can_be_tried() -> None:
    async def scenario(lab: Desk) -> None:
        lab.post.faults["chat"] = Refused("no such chat")
        outcomes = await lab.server.test_alerts(by="ann")
        assert [(one.channel, one.ok, one.text) for one in outcomes] == [
            ("mail", True, ""),
            ("chat", False, "no such chat"),
        ]
        [(_, message)] = lab.post.sent
        assert message.title == "[info] Paddock can reach you"
        assert "asked for by ann" in message.text
        lab.post.faults["mail"] = "hang"
        [outcome] = await lab.server.test_alerts("mail", by="ann")
        assert outcome.text == "it did not answer within 15 s"
        lab.post.faults["mail"] = RuntimeError("hunter22")
        [outcome] = await lab.server.test_alerts("mail", by="ann")
        assert outcome.text == "it broke in an unforeseen way (RuntimeError)"
        with pytest.raises(NotFound, match="no channel 'mial'; did you mean 'mail'"):
            await lab.server.test_alerts("mial")

    desk(scenario)


def test_where_there_are_no_channels_a_try_says_how_to_have_some() -> None:
    async def scenario(lab: Desk) -> None:
        with pytest.raises(Refused, match="add 'notifications' to a manifest and apply it"):
            await lab.server.test_alerts()
        lab.tell()  # nobody to tell; nothing breaks
        await asyncio.sleep(60)
        assert (await lab.server.status())["alerts"] == {}

    desk(scenario, manifest="paddock: 1\nfleets: {critic: {agent: 'lab:Critic'}}")

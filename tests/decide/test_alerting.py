"""Who is told of what, and when; and that what must never happen does not, whatever comes in whatever order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide import alerting
from paddock.decide.alerting import State, due, next_at, not_told, quieted, recipients, take
from paddock.model.incident import Severity
from paddock.model.notify import Alert, Channel, Message, Notifications, Quiet, Route

NOW = 1_790_000_000.0
INFO, WARNING, ERROR, CRITICAL = Severity


def sign(key: str = "k", severity: Severity = ERROR, *, at: float = NOW, **more: Any) -> Alert:
    return Alert(**({"key": key, "at": at, "severity": severity, "about": f"bot/{key}", "title": "down"} | more))


def end(key: str = "k", *, at: float = NOW) -> Alert:
    return sign(key, INFO, at=at, title="up again", recovered=True)


def rules(*names: str, **more: Any) -> Notifications:
    return Notifications(channels=[Channel(name=name, kind="log") for name in names or ("mail",)], **more)


class Desk:
    """Alerts go in, messages come out, time passes."""

    def __init__(self, wanted: Notifications, at: float = NOW) -> None:
        self.rules, self.now, self.state = wanted, at, State()
        self.sent: list[tuple[float, Message]] = []

    def come(self, *alerts: Alert) -> None:
        self.state = take(self.state, alerts, self.rules, self.now)

    def wait(self, seconds: float) -> list[Message]:
        """What is sent in this time, looked for as often as `next_at` says."""
        until, found = self.now + seconds, []
        while True:
            self.state, messages = due(self.state, self.rules, self.now)
            self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=State)  # it can be kept
            found += messages
            self.sent += [(self.now, message) for message in messages]
            soonest = next_at(self.state, self.rules, self.now)
            if soonest is None or soonest > until:
                self.now = until
                return found
            assert soonest >= self.now
            self.now = soonest


def titles(messages: Sequence[Message]) -> list[str]:
    return [f"{message.channel} {message.title}" for message in messages]


# -- routes ------------------------------------------------------------------------------------------------------------


def test_routes_go_by_severity_and_fleet() -> None:
    wanted = rules(
        "log",
        "mail",
        "chat",
        routes=[
            Route(to=["log"], severity=INFO),
            Route(to=["mail"], severity=ERROR),
            Route(to=["chat"], severity=WARNING, fleets=["shop"]),
        ],
    )
    assert recipients(sign(severity=INFO), wanted) == ["log"]
    assert recipients(sign(severity=ERROR), wanted) == ["log", "mail"]
    assert recipients(sign(severity=WARNING, fleet="shop"), wanted) == ["log", "chat"]
    assert recipients(sign(severity=CRITICAL, fleet="shop"), wanted) == ["log", "mail", "chat"]


def test_without_routes_all_channels_get_what_is_a_warning_or_worse() -> None:
    assert recipients(sign(severity=WARNING), rules("a", "b")) == ["a", "b"]
    assert recipients(sign(severity=INFO), rules("a", "b")) == []


def test_a_failing_channel_is_told_of_by_the_others() -> None:
    wanted = rules("a", "b", "c", routes=[Route(to=["a"]), Route(to=["b"], severity=ERROR)])
    assert recipients(sign("channel:a"), wanted) == ["b"]
    assert recipients(sign("channel:b"), wanted) == ["a"]
    assert recipients(sign("channel:a", WARNING), wanted) == ["b", "c"]
    assert recipients(sign("channel:a"), rules("a")) == []


# -- grouping and cool-down --------------------------------------------------------------------------------------------


def test_what_comes_within_the_group_time_is_one_message() -> None:
    desk = Desk(rules(group_s=5))
    desk.come(sign("a", WARNING))
    assert desk.wait(4.9) == []
    desk.come(sign("b", CRITICAL))
    [message] = desk.wait(1)
    assert (message.title, message.severity) == ("[critical] bot/b: down (and 1 more)", CRITICAL)
    assert [alert.key for alert in message.alerts] == ["b", "a"]
    assert "[warning] bot/a: down" in message.text
    assert desk.wait(1000) == []


def test_the_same_is_not_sent_again_within_the_cool_down_and_then_with_its_count() -> None:
    desk = Desk(rules(cooldown_s=300, group_s=0))
    desk.come(sign())
    assert len(desk.wait(1)) == 1
    for _ in range(3):
        desk.come(sign())
        assert desk.wait(99) == []
    desk.wait(10)
    desk.come(sign())
    [message] = desk.wait(1)
    assert message.alerts[0].repeats == 3
    assert "came 3 more times since it was last told" in message.text


def test_what_gets_worse_is_told_at_once() -> None:
    desk = Desk(rules("log", "mail", routes=[Route(to=["log"]), Route(to=["mail"], severity=CRITICAL)]))
    desk.come(sign(severity=WARNING))
    assert titles(desk.wait(10)) == ["log [warning] bot/k: down"]
    desk.come(sign(severity=CRITICAL))
    assert titles(desk.wait(10)) == ["log [critical] bot/k: down", "mail [critical] bot/k: down"]


def test_many_alerts_are_few_lines_and_a_count() -> None:
    desk = Desk(rules())
    desk.come(*[sign(f"n{number}", WARNING, text="x" * 5000) for number in range(1000)], sign("bad", CRITICAL))
    [message] = desk.wait(10)
    assert message.title == "[critical] bot/bad: down (and 199 more)"
    assert len(message.text) <= 3500
    assert message.text.endswith(f"… and {1001 - len(message.alerts):,} more")
    assert len(desk.state.told) == 200


# -- recovery ----------------------------------------------------------------------------------------------------------


def test_the_end_is_told_to_just_those_who_heard_of_it() -> None:
    desk = Desk(rules("log", "mail", routes=[Route(to=["log"], severity=INFO), Route(to=["mail"], severity=ERROR)]))
    desk.come(sign("a", WARNING), sign("b", ERROR))
    desk.wait(10)
    desk.come(end("a"), end("b"))
    assert titles(desk.wait(10)) == [
        "log [recovered] bot/b: up again (and 1 more)",
        "mail [recovered] bot/b: up again",
    ]
    desk.come(end("a"), end("never"))
    assert desk.wait(1000) == []
    assert desk.wait(0) == []
    assert desk.state.told == {}


def test_what_is_over_before_it_was_told_is_not_told_at_all() -> None:
    desk = Desk(rules(group_s=5))
    desk.come(sign())
    desk.wait(3)
    desk.come(end())
    assert desk.wait(1000) == []


def test_a_recovery_that_was_none_is_not_told() -> None:
    desk = Desk(rules(group_s=5, cooldown_s=60))
    desk.come(sign())
    desk.wait(10)
    desk.come(end(), sign())
    assert desk.wait(30) == []
    desk.come(end())
    assert titles(desk.wait(10)) == ["mail [recovered] bot/k: up again"]


def test_what_flaps_is_told_once_a_cool_down_and_nobody_is_left_with_the_wrong_word() -> None:
    desk = Desk(rules(group_s=0, cooldown_s=300))
    desk.come(sign())
    desk.wait(10)
    desk.come(end())
    assert titles(desk.wait(10)) == ["mail [recovered] bot/k: up again"]
    desk.come(sign())
    assert desk.wait(200) == []
    desk.come(end())
    desk.wait(10)
    desk.come(sign())
    [message] = desk.wait(200)
    assert (message.title, message.alerts[0].repeats) == ("[error] bot/k: down", 1)
    assert desk.now - NOW > 300


def test_a_channel_that_gave_up_has_nobody_to_tell_of_the_end() -> None:
    desk = Desk(rules("a", "b"))
    desk.come(sign())
    desk.wait(10)
    desk.state = not_told(desk.state, "a", ["k", "other"])
    desk.come(end())
    assert titles(desk.wait(10)) == ["b [recovered] bot/k: up again"]


def test_a_channel_that_is_gone_is_told_nothing() -> None:
    desk = Desk(rules("a", "b"))
    desk.come(sign())
    desk.wait(10)
    desk.rules = rules("b", "c")
    desk.come(end())
    assert titles(desk.wait(10)) == ["b [recovered] bot/k: up again"]


# -- quiet hours -------------------------------------------------------------------------------------------------------


def berlin(text: str, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold).timestamp()


def night(start: str = "22:00", finish: str = "07:00", **more: Any) -> Notifications:
    return rules("mail", quiet=[Quiet(start=start, end=finish, timezone="Europe/Berlin")], **more)


@pytest.mark.parametrize(
    ("at", "quiet"),
    [
        ("2026-06-01T21:59:59", False),
        ("2026-06-01T22:00:00", True),
        ("2026-06-02T00:00:00", True),
        ("2026-06-02T06:59:59", True),
        ("2026-06-02T07:00:00", False),
    ],
)
def test_quiet_hours_go_over_midnight_by_the_clock_of_their_timezone(at: str, quiet: bool) -> None:
    assert quieted(ERROR, night(), berlin(at)) is quiet
    assert not quieted(CRITICAL, night(), berlin(at))


def test_quiet_hours_keep_to_the_wall_clock_when_clocks_are_changed() -> None:
    wanted = night("02:30", "03:30")
    # 2026-03-29: from 02:00 to 03:00 there is no time; it is quiet from 03:00 on.
    spring = berlin("2026-03-29T01:59:59")
    assert not quieted(ERROR, wanted, spring)
    assert quieted(ERROR, wanted, spring + 1)
    assert quieted(ERROR, wanted, spring + 1799)
    assert not quieted(ERROR, wanted, spring + 1801)
    # 2026-10-25: the hour from 02:00 comes twice; each half past two is quiet.
    first, second = berlin("2026-10-25T02:30:00"), berlin("2026-10-25T02:30:00", fold=1)
    assert second - first == 3600
    assert [quieted(ERROR, wanted, at) for at in (first, first + 1800, second, second + 3600)] == [
        True,
        False,
        True,
        False,
    ]


def test_an_unknown_timezone_is_taken_for_utc() -> None:
    wanted = rules(quiet=[Quiet(start="00:00", end="23:59", timezone="Mars/Olympus")])
    assert quieted(ERROR, wanted, NOW)


def test_in_quiet_hours_only_the_worst_is_sent_and_the_rest_at_their_end() -> None:
    desk = Desk(night(), berlin("2026-06-01T23:00:00"))
    desk.come(sign("a", WARNING), sign("b", CRITICAL), sign("c", ERROR))
    assert titles(desk.wait(60)) == ["mail [critical] bot/b: down"]
    desk.come(sign("a", WARNING), end("c"))
    assert desk.wait(8 * 3600 - 120) == []
    [message] = desk.wait(120)
    assert message.title == "After quiet hours: [warning] bot/a: down (and 1 more)"
    assert [(alert.key, alert.recovered, alert.repeats) for alert in message.alerts] == [
        ("a", False, 1),
        ("c", True, 0),
    ]
    desk.come(end("a"), end("b"), end("c"))
    assert titles(desk.wait(60)) == ["mail [recovered] bot/b: up again (and 1 more)"]


def test_the_end_of_something_small_can_wait_for_the_morning_that_of_the_worst_cannot() -> None:
    desk = Desk(night(), berlin("2026-06-01T21:00:00"))
    desk.come(sign("a", ERROR), sign("b", CRITICAL))
    desk.wait(2 * 3600)
    desk.come(end("a"), end("b"))
    assert titles(desk.wait(3600)) == ["mail [recovered] bot/b: up again"]
    assert titles(desk.wait(8 * 3600)) == ["mail After quiet hours: [recovered] bot/a: up again"]


def test_what_gets_worst_in_quiet_hours_is_sent_at_once() -> None:
    desk = Desk(night(group_s=5), berlin("2026-06-01T23:00:00"))
    desk.come(sign(severity=WARNING))
    assert desk.wait(60) == []
    desk.come(sign(severity=CRITICAL))
    assert titles(desk.wait(5)) == ["mail [critical] bot/k: down"]


# -- clocks and bounds -------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_silences_nothing() -> None:
    desk = Desk(rules(group_s=5))
    desk.come(sign("a"))
    desk.now -= 86_400
    assert len(desk.wait(0)) == 1
    desk.come(sign("a"))
    desk.now -= 86_400
    desk.come(sign("a"))
    assert len(desk.wait(10)) == 1


def test_what_is_remembered_is_bounded() -> None:
    desk = Desk(rules(group_s=0))
    for number in range(30):
        desk.come(*[sign(f"{number}-{index}" * 100, text="x" * 10_000) for index in range(150)])
        desk.wait(1)
    assert len(desk.state.told) == alerting.TOLD_MAX
    assert len(msgspec.json.encode(desk.state)) < 1_000_000


def test_a_title_of_several_lines_becomes_one_line() -> None:
    desk = Desk(rules())
    desk.come(sign(title="down\r\nBcc: all@example.org\x00"))
    [message] = desk.wait(10)
    assert message.title == "[error] bot/k: down Bcc: all@example.org"


# -- whatever comes ----------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sign"), st.sampled_from("ab"), st.sampled_from(list(Severity))),
        st.tuples(st.just("end"), st.sampled_from("ab"), st.just(INFO)),
        st.tuples(st.just("wait"), st.sampled_from([1, 7, 120, 400, 20_000]), st.just(INFO)),
    ),
    max_size=30,
)
RULES = st.builds(
    lambda quiet, floor, group_s: rules(
        "log",
        "mail",
        routes=[Route(to=["log"], severity=INFO), Route(to=["mail"], severity=floor)],
        quiet=[Quiet(start="22:00", end="07:00", but=quiet)] if quiet else [],
        group_s=group_s,
        cooldown_s=300,
    ),
    st.sampled_from([None, ERROR, CRITICAL]),
    st.sampled_from([WARNING, ERROR]),
    st.sampled_from([0.0, 5.0]),
)


def play(steps: list[tuple[str, Any, Severity]], wanted: Notifications) -> tuple[Desk, dict[str, bool]]:
    """The desk after all steps and two quiet days, and whether each key is down at the end."""
    desk, down = Desk(wanted), {}
    for what, value, severity in steps:
        if what == "wait":
            desk.wait(value)
        else:
            desk.come(sign(value, severity, at=desk.now) if what == "sign" else end(value, at=desk.now))
            down[value] = what == "sign"
        for alert in desk.state.held.values():
            assert alert.severity.rank < wanted.quiet[0].but.rank
    desk.wait(2 * 86_400)
    return desk, down


@given(STEPS, RULES)
def test_the_same_is_sent_again_only_after_the_cool_down_or_when_worse(
    steps: list[tuple[str, Any, Severity]], wanted: Notifications
) -> None:
    desk, _ = play(steps, wanted)
    last: dict[tuple[str, str], tuple[float, int]] = {}
    for at, message in desk.sent:
        for alert in message.alerts:
            if not alert.recovered:
                before = last.get((message.channel, alert.key))
                assert before is None or at - before[0] >= 300 or alert.severity.rank > before[1]
                last[message.channel, alert.key] = (at, alert.severity.rank)


@given(STEPS, RULES)
def test_every_channel_is_left_with_the_right_word(
    steps: list[tuple[str, Any, Severity]], wanted: Notifications
) -> None:
    desk, down = play(steps, wanted)
    heard: dict[tuple[str, str], bool] = {}
    for _, message in desk.sent:
        for alert in message.alerts:
            heard[message.channel, alert.key] = not alert.recovered
    for key, is_down in down.items():
        # The log hears of everything, so it knows; who heard of it at all knows how it ended.
        assert heard.get(("log", key), False) is is_down
        assert heard.get(("mail", key), False) in (is_down, False)
        if not is_down:
            assert not heard.get(("mail", key), False)
    assert (desk.state.waiting, desk.state.held) == ({}, {})


@given(STEPS, RULES)
def test_the_end_is_told_only_to_who_heard_of_the_beginning(
    steps: list[tuple[str, Any, Severity]], wanted: Notifications
) -> None:
    desk, _ = play(steps, wanted)
    knows: set[tuple[str, str]] = set()
    for _, message in desk.sent:
        for alert in message.alerts:
            if not alert.recovered:
                knows.add((message.channel, alert.key))
            elif not message.title.startswith("After quiet hours"):  # there, what came and went is told as one
                assert (message.channel, alert.key) in knows
                knows.discard((message.channel, alert.key))


@given(STEPS, RULES)
def test_no_alert_is_lost_without_being_counted(steps: list[tuple[str, Any, Severity]], wanted: Notifications) -> None:
    desk, down = play(steps, wanted)
    for key, is_down in down.items():
        signs = sum(1 for what, value, _ in steps if (what, value) == ("sign", key))
        told = [
            alert
            for _, message in desk.sent
            for alert in message.alerts
            if message.channel == "log" and alert.key == key and not alert.recovered
        ]
        counted = sum(1 + alert.repeats for alert in told)
        assert counted <= signs
        if is_down:
            assert told

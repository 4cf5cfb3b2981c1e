"""One contract for all channels, tried against real servers, good and bad; then what is special to each."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme

from paddock.alerts import make_sender
from paddock.alerts.http import ANSWER_BYTES_MAX
from paddock.decide.rendering import message
from paddock.model.errors import Denied, PaddockError, Refused, Unavailable
from paddock.model.incident import Severity
from paddock.model.notify import Alert, Channel, Message
from paddock.ports.alerts import PartlyRefused, Sender

from .servers import (
    Handler,
    Http,
    Mailbox,
    Smtp,
    close,
    endless,
    garbage,
    hang,
    http_endless,
    listening,
    mail_server,
)

TOKEN = "123456:hunter22-token"
NOW = 1_790_000_000.0
LIMIT_S = 20.0


def letter(**more: Any) -> Message:
    known: dict[str, Any] = {"key": "k", "at": NOW, "severity": Severity.ERROR, "about": "bot/3", "title": "is down"}
    return message(
        "c",
        [Alert(**(known | {"text": "it said <nothing> & died", "incident": 17} | more))],
        NOW,
        summary=False,
        dropped=0,
    )


@dataclass(frozen=True)
class Kind:
    """A kind of channel, and servers that do to it what the contract asks."""

    name: str
    channel: Callable[[int], Channel]
    later: list[Handler]
    """They refuse, but the same message may go through later."""
    never: list[Handler]
    denied: Handler
    endless: list[Handler]


def telegram(port: int, **more: Any) -> Channel:
    known = {
        "name": "c",
        "kind": "telegram",
        "url": f"http://127.0.0.1:{port}",
        "to": ["-100", "@room"],
        "timeout_s": 5.0,
    }
    return Channel(**(known | {"secret_env": "ALERT_TOKEN"} | more))


def webhook(port: int, **more: Any) -> Channel:
    known = {"name": "c", "kind": "webhook", "url": f"http://127.0.0.1:{port}/hook", "timeout_s": 5.0}
    return Channel(**(known | {"secret_env": "ALERT_TOKEN"} | more))


def smtp(port: int, **more: Any) -> Channel:
    known: dict[str, Any] = {"name": "c", "kind": "smtp", "host": "127.0.0.1", "port": port, "security": "none"}
    known |= {"sender": "paddock@example.org", "to": ["ann@example.org", "ben@example.org"], "timeout_s": 5.0}
    return Channel(**(known | more))


def mail_with_login(port: int) -> Channel:
    return smtp(port, user="paddock", secret_env="ALERT_TOKEN")


ECHO = f'{{"ok": false, "description": "bad token {TOKEN}"}}'.encode()
HTTP_LATER: list[Handler] = [Http(status, ECHO) for status in (408, 425, 429, 500, 502, 503)]
HTTP_NEVER: list[Handler] = [Http(status, ECHO) for status in (400, 404, 410, 413)]
HTTP_NEVER.append(Http(302, ECHO, headers=f"Location: http://127.0.0.1:1/{TOKEN}\r\n"))
KINDS = [
    Kind("telegram", telegram, HTTP_LATER, HTTP_NEVER, Http(401, ECHO), [endless, http_endless]),
    Kind("webhook", webhook, HTTP_LATER, HTTP_NEVER, Http(403, ECHO), [endless]),
    Kind(
        "smtp",
        mail_with_login,
        [
            Smtp(GREETING="421 busy"),
            Smtp(MAIL="451 later"),
            Smtp(RCPT="450 later"),
            Smtp(DATA="451 later"),
            Smtp(END=f"451 {TOKEN}"),
        ],
        [Smtp(MAIL="550 never"), Smtp(RCPT="550 who?"), Smtp(DATA="554 never"), Smtp(END=f"554 spam {TOKEN}")],
        Smtp(AUTH=f"535 {TOKEN} is wrong"),
        [endless],
    ),
]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_TOKEN", TOKEN)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


async def sent(sender: Sender, *messages: Message) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            for one in messages:
                await sender.send(one)
    finally:
        await sender.close()


async def failure(channel: Channel) -> PaddockError:
    """What sending raises; it holds no secret."""
    with pytest.raises(PaddockError) as caught:
        await sent(make_sender(channel), letter())
    assert "hunter22" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


# -- the contract ------------------------------------------------------------------------------------------------------


async def test_a_refusal_that_may_pass_is_unavailable(kind: Kind) -> None:
    for handler in kind.later:
        async with listening(handler) as port:
            assert isinstance(await failure(kind.channel(port)), Unavailable)


async def test_a_refusal_for_good_is_refused(kind: Kind) -> None:
    for handler in kind.never:
        async with listening(handler) as port:
            assert type(await failure(kind.channel(port))) is Refused


async def test_a_wrong_secret_is_denied(kind: Kind) -> None:
    async with listening(kind.denied) as port:
        assert isinstance(await failure(kind.channel(port)), Denied)


async def test_where_nobody_listens_is_unavailable(kind: Kind) -> None:
    async with listening(close) as port:
        pass
    assert isinstance(await failure(kind.channel(port)), Unavailable)


@pytest.mark.parametrize("handler", [close, garbage], ids=lambda handler: handler.__name__)
async def test_who_breaks_off_or_talks_nonsense_is_unavailable(kind: Kind, handler: Handler) -> None:
    async with listening(handler) as port:
        assert isinstance(await failure(kind.channel(port)), Unavailable)


async def test_who_says_nothing_is_given_up(kind: Kind) -> None:
    async with listening(hang) as port:
        quick = {name: getattr(kind.channel(port), name) for name in Channel.__struct_fields__} | {"timeout_s": 0.2}
        error = await failure(Channel(**quick))
    assert isinstance(error, Unavailable)


async def test_who_talks_for_ever_is_cut_off(kind: Kind) -> None:
    for handler in kind.endless:
        async with listening(handler) as port:
            assert isinstance(await failure(kind.channel(port)), Unavailable)


@pytest.mark.parametrize("channel", [telegram, webhook, mail_with_login], ids=lambda make: make.__name__)
def test_a_secret_that_is_not_there_is_told(channel: Callable[[int], Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALERT_TOKEN")
    with pytest.raises(Refused, match="the variable ALERT_TOKEN is not set where the server runs"):
        make_sender(channel(1))


# -- certificates ------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One that this process trusts."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return ca


def serving_tls(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


@pytest.mark.parametrize("make", [telegram, webhook], ids=lambda make: make.__name__)
async def test_https_takes_only_the_right_certificate(make: Callable[..., Channel], authority: trustme.CA) -> None:
    http = Http()
    async with listening(http, serving_tls(authority)) as port:
        await sent(make_sender(make(port, url=f"https://127.0.0.1:{port}/")), letter())
    assert http.requests
    for wrong in (serving_tls(trustme.CA()), serving_tls(authority, "other.example.org")):
        http = Http()
        async with listening(http, wrong) as port:
            assert isinstance(await failure(make(port, url=f"https://127.0.0.1:{port}/")), Unavailable)
        assert not http.requests


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mail_takes_only_the_right_certificate(security: str, authority: trustme.CA) -> None:
    for context, good in (
        (serving_tls(authority), True),
        (serving_tls(trustme.CA()), False),
        (serving_tls(authority, "other.example.org"), False),
    ):
        box = Mailbox()
        async with mail_server(box, **{security: context}) as port:  # type: ignore[arg-type]
            if good:
                await sent(make_sender(smtp(port, security=security)), letter())
            else:
                assert isinstance(await failure(smtp(port, security=security)), Unavailable)
        assert bool(box.letters) is good


async def test_mail_is_not_sent_in_the_clear_where_it_should_be_encrypted() -> None:
    box = Mailbox()
    async with mail_server(box) as port:
        await failure(smtp(port, security="starttls"))
    assert box.letters == []


# -- what is special to each -------------------------------------------------------------------------------------------


async def test_the_log_has_a_line_for_each_message() -> None:
    with structlog.testing.capture_logs() as lines:
        await sent(make_sender(Channel(name="c", kind="log")), letter(), letter(recovered=True))
    assert [(line["log_level"], line["title"]) for line in lines] == [
        ("error", "[error] bot/3: is down"),
        ("info", "[recovered] bot/3: is down"),
    ]


async def test_mail_has_what_people_and_their_programs_need(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_TOKEN", "hunter22-mail")
    box = Mailbox()
    async with mail_server(box, starttls=serving_tls(authority), auth=True) as port:
        channel = smtp(port, security="starttls", user="paddock", secret_env="ALERT_TOKEN")
        await sent(make_sender(channel), letter(title="ist überlastet", severity=Severity.CRITICAL), letter())
    (recipients, mail), (_, other) = box.letters
    assert recipients == ["ann@example.org", "ben@example.org"]
    assert mail["Subject"] == "[critical] bot/3: ist überlastet"
    assert (mail["From"], mail["To"]) == ("paddock@example.org", "ann@example.org, ben@example.org")
    assert (mail["Importance"], other["Importance"], mail["Auto-Submitted"]) == ("high", None, "auto-generated")
    assert mail["Date"] == "Mon, 21 Sep 2026 14:13:20 +0000"
    assert mail["Message-ID"] != other["Message-ID"]
    assert "it said <nothing> & died" in mail.get_content()
    assert "paddock explain incident 17" in mail.get_content()
    assert box.logins == [("paddock", "hunter22-mail")] * 2


async def test_mail_to_some_is_said_to_be_so() -> None:
    box = Mailbox("ben@example.org")
    async with mail_server(box) as port:
        error = await failure(smtp(port))
    assert isinstance(error, PartlyRefused)
    assert error.message == "127.0.0.1 takes no mail for ben@example.org"
    assert [recipients for recipients, _ in box.letters] == [["ann@example.org"]]


async def test_telegram_gets_a_message_for_each_chat() -> None:
    http = Http()
    async with listening(http) as port:
        await sent(make_sender(telegram(port)), letter())
    assert [path for path, _, _ in http.requests] == [f"/bot{TOKEN}/sendMessage"] * 2
    assert [body["chat_id"] for _, _, body in http.requests] == ["-100", "@room"]
    text = http.requests[0][2]["text"]
    assert text.startswith("[error] bot/3: is down\n\n")
    assert "it said <nothing> & died" in text


async def test_telegram_sends_to_no_chat_twice_and_to_all_that_take_it() -> None:
    http = Http()
    http.statuses["-100"] = 503
    async with listening(http) as port:
        sender = make_sender(telegram(port))
        with pytest.raises(Unavailable):
            await sender.send(letter())
        http.statuses["-100"] = 400
        with pytest.raises(PartlyRefused):
            await sender.send(letter())
        await sent(sender, letter())
    assert [body["chat_id"] for _, _, body in http.requests] == ["-100", "@room", "-100"]


async def test_an_answer_that_is_not_telegrams_is_not_taken_for_a_yes() -> None:
    for body in (b"<html>welcome</html>", b'{"ok": false}', b"[]", b"{" * ANSWER_BYTES_MAX * 2):
        async with listening(Http(200, body)) as port:
            assert isinstance(await failure(telegram(port)), Unavailable)


async def test_a_webhook_gets_the_message_and_its_alerts() -> None:
    http = Http(204, b"")
    async with listening(http) as port:
        await sent(make_sender(webhook(port)), letter())
    [(path, headers, body)] = http.requests
    assert (path, headers["authorization"], headers["content-type"]) == ("/hook", f"Bearer {TOKEN}", "application/json")
    assert (body["paddock"], body["title"], body["severity"]) == (1, "[error] bot/3: is down", "error")
    assert (body["alerts"][0]["key"], body["alerts"][0]["incident"]) == ("k", 17)


async def test_a_webhook_that_answers_megabytes_has_taken_the_message() -> None:
    big = Http(200, b"x" * 10_000_000)
    async with listening(big) as port:
        await sent(make_sender(webhook(port)), letter(), letter())
    async with listening(http_endless) as port:
        await sent(make_sender(webhook(port)), letter())
    assert len(big.requests) == 2


async def test_the_shape_of_slack_and_the_whole_address_as_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    http = Http(200, b"ok")
    async with listening(http) as port:
        monkeypatch.setenv("ALERT_TOKEN", f"http://127.0.0.1:{port}/services/hunter22")
        channel = Channel(name="c", kind="webhook", shape="slack", secret_env="ALERT_TOKEN")
        await sent(make_sender(channel), letter())
        http.status, http.body = 404, b"no_service at /services/hunter22"
        assert isinstance(await failure(channel), Refused)
    path, headers, body = http.requests[0]
    assert (path, body["text"]) == ("/services/hunter22", "[error] bot/3: is down")
    assert "authorization" not in headers
    assert "it said &lt;nothing&gt; &amp; died" in body["attachments"][0]["text"]
    assert body["attachments"][0]["color"] == "#d00000"


def test_a_secret_file_is_the_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    channel = telegram(1, secret_env="", secret_file=str(file))
    with pytest.raises(Refused, match="cannot be read: No such file"):
        make_sender(channel)
    file.write_text(f"{TOKEN}\n")
    os.chmod(file, 0o640)
    with pytest.raises(Refused, match="can be read by others than its owner: chmod 600 it"):
        make_sender(channel)
    os.chmod(file, 0o600)
    assert make_sender(channel)
    for text, told in (("", "is empty"), ("x" * 5000, "longer than a secret"), ("a\nb", "several lines")):
        file.write_text(text)
        with pytest.raises(Refused, match=told):
            make_sender(channel)
    with pytest.raises(Refused, match="cannot be read"):
        make_sender(telegram(1, secret_env="", secret_file=str(tmp_path)))


@pytest.mark.parametrize("token", ["no/token", "123:abc def", "ü"])
def test_what_is_no_token_is_no_part_of_an_address(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_TOKEN", token)
    with pytest.raises(Refused, match="is no token of a bot"):
        make_sender(telegram(1))
    with pytest.raises(Refused, match="without a url of its own it must be the whole URL"):
        make_sender(webhook(1, url=""))

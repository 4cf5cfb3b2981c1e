"""No secret leaves by a text, however it is written; ordinary texts stay as they are."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.redact import LIMIT, MASK, plain, redact, said, secrets_of
from paddock.model.fleet import FleetSpec

HARMLESS = [
    "executor/0 died by SIGKILL 3 times in 60 s; restarted by its node",
    "memory will cross 200 MB in about 14 min (grows by 40 MB an hour)",
    "connection refused: http://127.0.0.1:8080/health?verbose=1",
    "max_tokens: 500, tokens used: 12",
    "the author: Ann",
    "version 3f9a1c2b77d0 replaced 0a1b2c3d4e5f",
    "incident 550e8400-e29b-41d4-a716-446655440000 is over",
    'File "/usr/lib/python3.11/site-packages/some_package/module_name/handlers.py", line 12',
    "fleet a-name-of-a-fleet-with-many-words-2024-10-architect is well",
    "bearer of news",
    "-----BEGIN CERTIFICATE----- is public",
    "ann@example.org wrote",
    "=" * 60,
    'FATAL: password authentication failed for user "postgres"',
    "unexpected token 'foo' at line 3",
    "password: None, token=null",
    "http://127.0.0.1:8080/users/ann@example.org",
    "docker run -u 1000:1000 python -u bot.py",
    "no key; the compass is broken; passing by",
    "KeyError: 'PASSWORD'",
    "one\ttab and\nline",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET / Authorization: Bearer abc.def-123", f"GET / Authorization: {MASK}"),
        ("authorization: Basic dXNlcjpwYXNz", f"authorization: {MASK}"),
        ("{'Authorization': 'token abcdef'}", f"{{'Authorization': '{MASK}'}}"),
        ("used bearer hunter22!", f"used bearer {MASK}!"),
        ("Cookie: a=b; session=xyz\nnext", f"Cookie: {MASK}\nnext"),
        ("postgresql://ann:hunter2@db/x failed", f"postgresql://{MASK}@db/x failed"),
        ("https://hunter2@host/path", f"https://{MASK}@host/path"),
        ("password=hunter2 next", f"password={MASK}"),
        ("DB_PASSWORD: hunter2, next", f"DB_PASSWORD: {MASK}, next"),
        ('{"api_key": "hunt\\"er2", "n": 1}', f'{{"api_key": "{MASK}", "n": 1}}'),
        ("password='hunter 2' next", f"password='{MASK}' next"),
        ("client_secret => hunter2", f"client_secret => {MASK}"),
        ("run --password hunter2 --now", f"run --password {MASK} --now"),
        ("run --api-key=hunter2 --now", f"run --api-key={MASK} --now"),
        ("see https://h/?access_token=hunter2&n=1.", f"see https://h/?access_token={MASK}."),
        ("password=hun'ter,2;x)y) next", f"password={MASK}) next"),
        (f"password={MASK}, token: {MASK}", f"password={MASK}, token: {MASK}"),
        (
            "https://hooks.slack.com/services/T0/B0/hunter2 said 404",
            f"https://hooks.slack.com/services/{MASK} said 404",
        ),
        ("POST https://api.telegram.org/bot123456:hunter2/sendMessage", f"POST https://api.telegram.org/bot{MASK}"),
        ("jwt eyJhbGciOi.eyJzdWIiOiIx.SflKxwRJ is bad", f"jwt {MASK} is bad"),
        ("key sk-proj-abcdefghij0123456789 is bad", f"key {MASK} is bad"),
        ("ghp_abcdefghij0123456789", MASK),
        ("xoxb-1234-5678-abcd", MASK),
        ("AKIAIOSFODNN7EXAMPLE", MASK),
        (f"seed SU{'A2' * 28}", f"seed {MASK}"),
        ("0123456789abcdef0123456789abcdef", MASK),
        ("sum AbCdEfGhIjKlMnOpQrSt0123456789+/AbCd== end", f"sum {MASK} end"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nnext", f"{MASK}\nnext"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\ncut off", MASK),
        (
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQOY\n=ab\n-----END PGP PRIVATE KEY BLOCK-----\nnext",
            f"{MASK}\nnext",
        ),
        ("lQOYab\n-----END RSA PRIVATE KEY-----\nnext", f"{MASK}\nnext"),
        ("PASSWORD  =     hunter2", f"PASSWORD  =     {MASK}"),
        ("password=my secret pass", f"password={MASK}"),
        ("password=my secret pass user=ann", f"password={MASK} user=ann"),
        ("passphrase: my secret pass, then", f"passphrase: {MASK}, then"),
        ("postgres://u:p@ss@h/db", f"postgres://{MASK}@h/db"),
        ("postgres://u:p/s?s@h:5432/db", f"postgres://{MASK}@h:5432/db"),
        ('Authorization: Digest username="x", response="abcdef"', f"Authorization: {MASK}"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=AK/x, Signature=abc", f"Authorization: {MASK}"),
        ("pass=hunter2", f"pass={MASK}"),
        ("pw=hunter2", f"pw={MASK}"),
        ("db_pass=hunter2", f"db_pass={MASK}"),
        ("DBPASS=hunter2", f"DBPASS={MASK}"),
        ("db_pass: hunter2", f"db_pass: {MASK}"),
        ("passcode=hunter2", f"passcode={MASK}"),
        ("auth=hunter2", f"auth={MASK}"),
        ("sig=hunter2", f"sig={MASK}"),
        ("GET /x?key=hunter2", f"GET /x?key={MASK}"),
        ("tokens=hunter2,b", f"tokens={MASK}"),
        ('tokens: ["hunter2", "b c"] next', f"tokens: {MASK} next"),
        ("api key: hunter2", f"api key: {MASK}"),
        ("X-Auth: hunter2", f"X-Auth: {MASK}"),
        ("password hunter2", f"password {MASK}"),
        ("the password is hunter2.", f"the password is {MASK}"),
        ("run --pass hunter2", f"run --pass {MASK}"),
        ("['run', '--password', 'hunter2', '-v']", f"['run', '--password', '{MASK}', '-v']"),
        ("curl -u admin:hunter2 http://h/", f"curl -u {MASK} http://h/"),
        ("curl --user=admin:hunter2", f"curl --user={MASK}"),
        ("['curl', '-u', 'admin:hunter2']", f"['curl', '-u', {MASK}']"),
        ("sshpass -p hunter2 ssh h", f"sshpass -p {MASK} ssh h"),
        ("sshpass -phunter2 ssh h", f"sshpass -p{MASK} ssh h"),
        ("mysql -u root -phunter2 db", f"mysql -u root -p{MASK} db"),
        ("AWS_SECRET_ACCESS_KEY abcdEFGH/ijklMNOP/qrst", f"AWS_SECRET_ACCESS_KEY {MASK}"),
        ("hf_abcdefghijklmnopqrst is bad", f"{MASK} is bad"),
        ("SG.abcdefghijkl.mnopqrstuvwx is bad", f"{MASK} is bad"),
        ("\x1b[36mpassword\x1b[0m=\x1b[35mhunter2\x1b[0m", f"password={MASK}"),
        ("pass\x00word=hun\x07ter2", f"password={MASK}"),
        ("password:\n  hunter2\nnext", f"password:\n  {MASK}\nnext"),
        ("BEARER password: 'hunter2' next", f"BEARER {MASK} next"),
        ("token= --password hunter2 next", f"token= {MASK} next"),
        ("password=b'hunter 2'", f"password=b'{MASK}'"),
        ("password=" + "'" * 3 + "hunter2" + "'" * 3, f"password='{MASK}'"),
        ('password=""hunter2""', f'password="{MASK}"'),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "line",
    [
        {"level": "error", "msg": "login failed", "password": "hunter 2", "token": 12345, "list": ["a"]},
        {"msg": 'sent {"password": "hunter2", "n": 1}', "Authorization": "Bearer hunter2"},
        {"api_key": None, "secret": {"hunter2": "hunter2"}, "cookie": "hunter2=a; b", "auth": "hunter2"},
        {"Authorization": 'Digest username="a", response="hunter2"', "n": 1},
    ],
)
def test_a_line_in_json_stays_one(line: dict[str, object]) -> None:
    told = redact(json.dumps(line))
    assert json.loads(told).keys() == line.keys()
    assert "hunter" not in told


def test_what_orders_a_terminal_about_is_taken_out() -> None:
    assert plain("a\x1b[31mred\x1b[0m \x1b]0;title\x07b\x9b2Jc\r\nd\re\u202ef") == "ared bc\nd\nef"
    assert plain("ordinary \u00e9\n\ttext") == "ordinary \u00e9\n\ttext"


def test_a_word_of_a_stranger_is_one_line() -> None:
    assert said("no\n  password=x here,\tno") == f"no password={MASK}, no"
    assert len(said("word " * 1000)) == 200


def test_secrets_of_fleets_are_known_by_line() -> None:
    env = {"KEY": "first-line\nlonger-second-line\nab", "OPEN": "shown"}
    spec = FleetSpec(name="a", runtime="exec", env=env, secret_env=["KEY", "GONE"])
    assert secrets_of(spec, spec) == ["longer-second-line", "first-line"]


def test_given_secrets_are_taken_out_in_every_spelling() -> None:
    text = "said hunter2&co, hunter2%26co and hunter2, but not abc"
    assert redact(text, ["abc", "hunter2", "hunter2&co"]) == f"said {MASK}, {MASK} and {MASK}, but not abc"


def test_a_text_is_cut() -> None:
    assert redact("x " * 10_000) == ("x " * 10_000)[: LIMIT - 1] + "…"
    assert redact("word " * 3, limit=6) == "word …"


def test_a_secret_at_the_cut_leaves_no_half_of_it() -> None:
    secret = "hunter-two-hunter-two"
    for before in range(39_975, 40_001):
        # All that stands before it is itself redacted to little, so that the cut is within what is shown.
        text = "password=" + "x" * (before - 9) + " " + secret
        assert "hunter" not in redact(text, [secret])


WORDS = st.text(string.ascii_letters + string.digits + " =:/@&\"'-_.+\n", max_size=60)


@given(WORDS, WORDS, st.text(string.ascii_letters + string.digits + "!$%&*+;", min_size=4, max_size=40))
def test_a_given_secret_never_comes_through(before: str, after: str, secret: str) -> None:
    text = redact(before + secret + after, [secret])
    # What is put instead holds letters of its own.
    assert secret not in text.replace(MASK, "\0")


@given(st.sampled_from(["password", "API_KEY", "db-secret", "auth_token", "Passphrase"]), WORDS, WORDS)
def test_what_is_called_a_secret_never_comes_through(name: str, before: str, after: str) -> None:
    for text in (f"{name}=Zq7pX", f"{name}: 'Zq7pX'", f'{{"{name}": "Zq7pX"}}', f"--{name.lower()} Zq7pX"):
        assert "Zq7pX" not in redact(f"{before} {text} {after}")


@given(st.text(max_size=300))
def test_what_is_redacted_stays_so(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(), st.integers(1, 50))
def test_no_text_is_longer_than_its_limit(text: str, limit: int) -> None:
    assert len(redact(text * 50, limit=limit)) <= limit


@pytest.mark.parametrize(
    "bad",
    [
        "password",
        "--token ",
        "a" * 50_000,
        "://" * 20_000,
        "=" * 50_000,
        "eyJ." * 20_000,
        "token=,;",
        "pass pass=",
        "a:b@://",
    ],
)
def test_hostile_texts_take_no_time(bad: str) -> None:
    # A pattern that backtracks would not come back from this.
    assert len(redact(bad * 5_000)) <= LIMIT

"""Probes, policies and notifications: what may be written, what it becomes, and how each mistake is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paddock.model.fleet import FleetSpec
from paddock.model.health import Probe
from paddock.model.incident import Severity
from paddock.model.manifest import Manifest
from paddock.model.notify import Channel, Notifications, Quiet, Route
from paddock.model.pattern import found
from paddock.model.policy import DEFAULT_LADDER, Action, Cause, Objective, Policy, Step, Weights

Read = Callable[..., Manifest]
Refuse = Callable[..., str]


def fleet(fields: str) -> str:
    return f"paddock: 1\nfleets:\n  a: {{command: x, {fields}}}\n"


def probe(fields: str) -> str:
    return fleet(f"health: {{probes: [{{name: p, {fields}}}]}}")


def policy(fields: str) -> str:
    return f"paddock: 1\nfleets: {{a: {{command: x}}, b: {{command: x}}}}\npolicies:\n  p: {{{fields}}}\n"


def notify(fields: str) -> str:
    return f"paddock: 1\nfleets: {{a: {{command: x}}}}\nnotifications: {{{fields}}}\n"


def channel(fields: str) -> str:
    return notify(f"channels: [{{name: c, {fields}}}]")


# -- probes ------------------------------------------------------------------------------------------------------------


def test_probes_of_every_kind_are_read(read: Read) -> None:
    text = """
paddock: 1
fleets:
  bot:
    command: [node, bot.js]
    methods: [add]
    health:
      http: "http://127.0.0.1:{port}/health"
      probes:
        - {name: page, kind: http, url: "http://127.0.0.1:{port.web}/", match: "ok|fine", every_s: 1m, timeout_s: 2s}
        - {name: tcp, kind: tcp, phase: readiness, url: "127.0.0.1:{port}", every_s: 2}
        - {name: script, kind: exec, phase: startup, command: "check.sh {port.admin}", fails: 1}
        - {name: panic, kind: log, match: "panic: .*"}
        - {name: fat, kind: metric, metric: memory_bytes, above: 200MB}
        - {name: sums, kind: task, method: add, args: {a: 1, b: 2}, expect: {within: [3, 0.1]}, every_s: 5m}
"""
    spec = read(text).fleets["bot"]
    assert spec.health.http == "http://127.0.0.1:{port}/health"
    assert spec.health.probes == [
        Probe(name="page", kind="http", url="http://127.0.0.1:{port.web}/", match="ok|fine", every_s=60, timeout_s=2),
        # The default time-out is 5 s, but never longer than the probe's interval.
        Probe(name="tcp", kind="tcp", phase="readiness", url="127.0.0.1:{port}", every_s=2, timeout_s=2),
        Probe(name="script", kind="exec", phase="startup", command=["check.sh", "{port.admin}"], fails=1),
        Probe(name="panic", kind="log", match="panic: .*"),
        Probe(name="fat", kind="metric", metric="memory_bytes", above=200e6),
        Probe(name="sums", kind="task", method="add", args={"a": 1, "b": 2}, expect={"within": [3, 0.1]}, every_s=300),
    ]
    assert spec.ports == ["port", "web", "admin"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("kind: htp, url: x", "kind 'htp' is not one of http, tcp, exec, log, metric, task; did you mean 'http'?"),
        ("kind: http", "line 3, column 37: fleets.a.health.probes[0] is of kind http and lacks 'url'"),
        ("kind: tcp, url: 'h:1', match: x", "match means nothing with kind tcp, which has url; remove it"),
        ("kind: exec, command: x, url: y", "url means nothing with kind exec"),
        ("kind: http, url: 'ftp://h/'", "line 3, column 64: probe 'p': url must be one such as http://127.0.0.1"),
        ("kind: http, url: 'http://me:secret@h/'", "without a user or password"),
        ("kind: tcp, url: 'http://h:1'", "url must be host:port"),
        ("kind: tcp, url: h", "url must be host:port"),
        ("kind: log, match: '('", "match is no regular expression: missing )"),
        ("kind: log, match: '(?=x)'", "match is no regular expression: invalid perl operator"),
        ("kind: log, match: 'x{1001}'", "match is no regular expression: invalid repetition size"),
        (f"kind: log, match: '{'x' * 1001}'", "over the limit of 1,000"),
        ("kind: log, match: x, phase: alive", "phase 'alive' is not one of startup, liveness, readiness"),
        ("kind: metric, metric: memory, above: 1", "did you mean 'memory_bytes'?"),
        ("kind: metric, metric: cpus", "lacks 'above'"),
        ("kind: metric, metric: threads, above: 2MB", "above counts threads; write a number"),
        ("kind: metric, metric: cpus, above: -1", "above is -1, but must be from 0"),
        ("kind: task, method: m", "lacks 'expect'"),
        ("kind: task, method: m, expect: {}", "has 0 rules, but must have one of equals, contains, matches, within"),
        (
            "kind: task, method: m, expect: {equal: 1}",
            "unknown rule 'equal' in fleets.a.health.probes[0].expect; did you",
        ),
        ("kind: task, method: m, expect: {within: 3}", "within must be [number, tolerance]"),
        ("kind: task, method: m, expect: {within: [3, -1]}", "within[1] is -1"),
        ("kind: task, method: m, expect: {matches: '['}", "matches is no regular expression: missing ]"),
        ("kind: task, phase: startup, method: m, expect: {equals: 1}", "its phase cannot be startup"),
        ("kind: tcp, url: 'h:1', every_s: 1, timeout_s: 2", "timeout_s (2) is over every_s (1)"),
        ("kind: tcp, url: 'h:1', every_s: 0", "every_s is 0, but must be from 0.1"),
        ("kind: tcp, url: 'h:1', fails: 0", "fails is 0, but must be from 1"),
        ("kind: tcp, url: 'h:1', interval: 3", "write every_s"),
    ],
)
def test_a_wrong_probe_is_told(refused: Refuse, fields: str, told: str) -> None:
    said = refused(probe(fields))
    assert told in said
    assert "farm.yaml, line 3, column " in said


def test_a_probe_asks_only_for_methods_that_there_are(refused: Refuse) -> None:
    task = "{name: p, kind: task, method: ad, expect: {equals: 1}}"
    told = refused(fleet(f"methods: [add], health: {{probes: [{task}]}}"))
    assert "probe 'p': 'ad' is not among the methods; did you mean 'add'?" in told
    assert "takes no tasks" in refused(fleet(f"user: bob, health: {{probes: [{task}]}}"))


def test_two_probes_of_one_name_are_refused(refused: Refuse) -> None:
    one = "{name: p, kind: tcp, url: 'h:1'}"
    assert "has 'p' twice, first in line 3" in refused(fleet(f"health: {{probes: [{one}, {one}]}}"))


def test_no_pattern_is_slow_whatever_it_is_run_on() -> None:
    # With a back-tracking matcher this would not end before the sun does.
    assert not found("(a+)+$", "a" * 100_000 + "b")
    assert not found("(x+x+)+y", b"x" * 100_000)
    assert found("a.c", "\ud800abc")


# -- policies ----------------------------------------------------------------------------------------------------------


def test_a_policy_is_resolved_into_the_fleets_that_name_it(read: Read) -> None:
    text = """
paddock: 1
templates: {t: {command: x, policy: careful}}
fleets: {a: {template: t}, b: {command: x}, spare: {command: x, replicas: 0}}
policies:
  careful:
    scoring: {weights: {endpoint: 50, mesh: 0}, heal_below: 30, memory_bytes_max: 100MB}
    ladder: [{action: restart, attempts: 2, verify_s: 10s, cooldown_s: 2}, recreate, activate-backup, escalate]
    causes: {oom: [restart-clean, escalate]}
    window_s: 1h
    standby: spare
    budget: {per_min: 5}
    objectives: [{name: quick, measure: latency, share: 0.99, within_s: 2s, window_s: 7d}]
"""
    manifest = read(text)
    found = manifest.fleets["a"].policy
    assert (found.name, found.standby, found.window_s, found.budget.per_min) == ("careful", "spare", 3600, 5)
    assert found.scoring.weights == Weights(endpoint=50, mesh=0)
    assert (found.scoring.heal_below, found.scoring.memory_bytes_max) == (30, 100_000_000)
    assert found.ladder == [
        Step(action=Action.RESTART, attempts=2, verify_s=10, cooldown_s=2),
        Step(action=Action.REDEPLOY),
        Step(action=Action.ACTIVATE_BACKUP),
        Step(action=Action.ESCALATE),
    ]
    assert found.causes == {Cause.OOM: [Step(action=Action.RESTART_CLEAN), Step(action=Action.ESCALATE)]}
    assert found.objectives == [Objective(name="quick", measure="latency", share=0.99, within_s=2, window_s=7 * 86_400)]
    assert manifest.fleets["b"].policy == Policy()
    assert manifest.warnings == []


def test_fleets_that_name_no_policy_have_the_one_called_default(read: Read) -> None:
    manifest = read("paddock: 1\nfleets: {a: {command: x}}\npolicies: {default: {heal: no}}\n")
    assert manifest.fleets["a"].policy == Policy(heal=False)


def test_another_policy_makes_no_other_agents(read: Read) -> None:
    one = read(fleet("replicas: 1")).fleets["a"]
    other = read(fleet("policy: p") + "policies: {p: {heal: false}}").fleets["a"]
    assert other.policy.name == "p"
    assert one.version == other.version


def test_a_stored_spec_from_before_policies_is_still_read(read: Read) -> None:
    old = msgspec.to_builtins(read(fleet("replicas: 1")).fleets["a"])
    del old["policy"], old["health"]["probes"]
    assert msgspec.convert(old, FleetSpec).policy.ladder == DEFAULT_LADDER


def test_what_a_ladder_lacks_is_added_and_said(read: Read) -> None:
    manifest = read(policy("ladder: [restart]"))
    assert manifest.warnings == [
        "farm.yaml, line 4, column 15: policies.p.ladder does not end with escalate, so that is added"
    ]
    manifest = read(fleet("policy: p") + "policies: {p: {ladder: [restart]}}")
    assert [step.action for step in manifest.fleets["a"].policy.ladder] == [Action.RESTART, Action.ESCALATE]


def test_what_no_runtime_offers_is_warned_of_and_equal_limits_of_a_score_are_fine(read: Read) -> None:
    text = "policies: {p: {ladder: [reboot, restart, escalate], scoring: {alert_below: 20, recovered_at: 20}}}"
    assert read(fleet("policy: p") + text).warnings == [
        "farm.yaml, line 4, column 24: policies.p.ladder: no runtime offers reboot: skipped"
    ]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("ladder: [restrt]", "column 16: policies.p.ladder[0] 'restrt' is not one of restart, "),
        ("ladder: [restrt]", "did you mean 'restart'?"),
        ("ladder: []", "ladder has 0 entries, but must have 1 to 20"),
        ("ladder: restart", "ladder must be a list"),
        ("ladder: [escalate, restart]", "column 26: policies.p.ladder: after escalate people decide, so restart is"),
        ("ladder: [restart, redeploy, restart, escalate]", "ladder returns to restart of line 4; a ladder only climbs"),
        ("ladder: [redeploy, recreate, escalate]", "ladder returns to redeploy of line 4"),
        ("ladder: [{attempts: 2}, escalate]", "ladder[0] lacks 'action'"),
        ("ladder: [{action: restart, tries: 2}, escalate]", "unknown key 'tries' in policies.p.ladder[0]"),
        ("ladder: [{action: restart, attempts: 0}, escalate]", "attempts is 0, but must be from 1"),
        (
            "ladder: [{action: restart, attempts: 3, cooldown_s: 0}, escalate]",
            "column 47: policies.p.ladder: restart is tried 3 times without a rest; raise cooldown_s",
        ),
        ("ladder: [restart, {action: escalate, attempts: 2}]", "write only 'escalate'"),
        ("ladder: [activate-backup, escalate]", "has activate-backup, and the policy names no standby"),
        ("causes: {omm: [restart, escalate]}", "omm' is not one of crash, "),
        ("causes: {omm: [restart, escalate]}", "did you mean 'oom'?"),
        ("causes: {oom: [escalate, restart]}", "policies.p.causes.oom: after escalate people decide"),
        ("scoring: {weights: {endpoint: 50}}", "the weights add up to 120, not to 100 (with mesh 20, response 20,"),
        ("scoring: {weights: {endpont: 50}}", "did you mean 'endpoint'?"),
        ("scoring: {weights: {endpoint: -5}}", "endpoint is -5"),
        ("scoring: {heal_below: 60}", "column 17: heal_below (60) must not be above alert_below (50)"),
        ("scoring: {alert_below: 80}", "alert_below (80) must not be above recovered_at (70)"),
        ("scoring: {recovered_at: 40}", "alert_below (50) must not be above recovered_at (40)"),
        ("scoring: {recovered_at: 101}", "recovered_at is 101, but must be from 1 to 100"),
        ("scoring: {slow_s: 5}", "slow_s (5) must be below slow_s_max (5)"),
        ("budget: {share: 0}", "share is 0"),
        ("budget: {share: 5%}", "budget.share must be a number, not a text; write 0.05 for '5%'"),
        ("budget: {per_min: 0}", "per_min is 0"),
        ("storm: {failures: 1}", "failures is 1, but must be from 2"),
        ("attempts_max: 0", "attempts_max is 0"),
        ("objectives: [{name: o, measure: uptime, share: 0.9}]", "measure 'uptime' is not one of availability,"),
        ("objectives: [{name: o, measure: success, share: 1}]", "share is 1, but must be over 0 and below 1"),
        ("objectives: [{name: o, measure: success, share: 0}]", "share is 0, but must be over 0 and below 1"),
        ("objectives: [{name: o, measure: success, share: 99.9}]", "such as 0.999 for 99.9 %"),
        ("objectives: [{name: o, measure: success, share: 99.9%}]", "such as 0.999 for 99.9 %"),
        ("objectives: [{name: o, measure: latency, share: 0.9}]", "promises latency and lacks within_s"),
        ("objectives: [{name: o, measure: success, share: 0.9, within_s: 1}]", "within_s goes with latency alone"),
        ("standby: c", "the standby 'c' of policy p is no fleet"),
        ("stanby: b", "unknown key 'stanby' in policies.p; did you mean 'standby'?"),
    ],
)
def test_a_wrong_policy_is_told(refused: Refuse, fields: str, told: str) -> None:
    said = refused(policy(fields))
    assert told in said
    assert "farm.yaml, line 4, column " in said


def test_a_fleet_names_a_policy_that_there_is(refused: Refuse) -> None:
    told = refused("paddock: 1\nfleets: {a: {command: x, policy: carful}}\npolicies: {careful: {}}")
    assert told == "farm.yaml, line 2, column 34: there is no policy 'carful'; did you mean 'careful'?"


def test_no_fleet_is_its_own_standby(refused: Refuse) -> None:
    told = refused("paddock: 1\nfleets: {a: {command: x, policy: p}}\npolicies: {p: {standby: a}}")
    assert told == "farm.yaml, line 2, column 34: a would be its own standby by policy p; give it another policy"


def test_a_broken_policy_is_told_once_and_not_for_each_fleet(refused: Refuse) -> None:
    told = refused("paddock: 1\nfleets: {a: {command: x, policy: p}, b: {command: x, policy: p}}\npolicies: {p: []}")
    assert told == "farm.yaml, line 3, column 15: policies.p must be a mapping, not a list"


def test_two_policies_of_one_name_are_refused(refused: Refuse) -> None:
    text = "paddock: 1\npolicies: {p: {}}"
    assert "the policy 'p' is there already: farm.yaml, line 2" in refused(text, text)


# -- notifications -----------------------------------------------------------------------------------------------------


def test_notifications_are_read(read: Read) -> None:
    text = """
paddock: 1
fleets: {a: {command: x}}
notifications:
  channels:
    - {name: log, kind: log}
    - {name: mail, kind: smtp, host: mail.example.org, security: tls, sender: p@example.org, to: [ops@example.org],
       user: p, secret_file: keys/mail}
    - {name: chat, kind: telegram, to: [-100123, "@room"], secret_env: BOT_TOKEN}
    - {name: slack, kind: webhook, shape: slack, secret_env: SLACK_URL, timeout_s: 3s}
    - {name: hook, kind: webhook, url: "https://example.org/alerts"}
  routes: [{to: [log, mail, chat, slack]}, {to: [hook], severity: error, fleets: [a]}]
  cooldown_s: 10m
  group_s: 2s
  quiet: [{start: 22:00, end: 07:00, timezone: Europe/Berlin, but: error}]
"""
    assert read(text, folder="/srv/farm").notifications == Notifications(
        channels=[
            Channel(name="log", kind="log"),
            Channel(
                name="mail",
                kind="smtp",
                host="mail.example.org",
                port=465,
                security="tls",
                sender="p@example.org",
                to=["ops@example.org"],
                user="p",
                secret_file="/srv/farm/keys/mail",
            ),
            Channel(name="chat", kind="telegram", to=["-100123", "@room"], secret_env="BOT_TOKEN"),
            Channel(name="slack", kind="webhook", shape="slack", secret_env="SLACK_URL", timeout_s=3),
            Channel(name="hook", kind="webhook", url="https://example.org/alerts"),
        ],
        routes=[
            Route(to=["log", "mail", "chat", "slack"]),
            Route(to=["hook"], severity=Severity.ERROR, fleets=["a"]),
        ],
        cooldown_s=600,
        group_s=2,
        quiet=[Quiet(start="22:00", end="07:00", timezone="Europe/Berlin", but=Severity.ERROR)],
    )


def test_a_manifest_that_says_nothing_of_notifications_changes_none(read: Read) -> None:
    assert read(fleet("replicas: 1")).notifications is None
    assert read(notify("")).notifications == Notifications()


def test_fleets_that_exist_already_may_be_routed(read: Read) -> None:
    others = {"old": FleetSpec(name="old", runtime="exec", command=["x"])}
    text = notify("channels: [{name: c, kind: log}], routes: [{to: [c], fleets: [old]}]")
    assert read(text, others=others).notifications.routes == [Route(to=["c"], fleets=["old"])]  # type: ignore[union-attr]


SMTP = "kind: smtp, host: h, sender: a@b.org, to: [c@d.org]"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("kind: mail", "kind 'mail' is not one of log, smtp, telegram, webhook"),
        ("kind: smtp", "is of kind smtp and lacks 'host'"),
        ("kind: log, url: 'http://h/'", "url means nothing with kind log, which has no key of its own"),
        (f"{SMTP}, from: a", "write sender"),
        ("kind: smtp, host: h, sender: me, to: [c@d.org]", "sender 'me' is not a mail address"),
        ("kind: smtp, host: h, sender: 'a@b.org\n', to: [c@d.org]", "is not a mail address"),
        ("kind: smtp, host: h, sender: a@b.org, to: [joe]", "channel 'c': 'joe' is not a mail address"),
        ("kind: smtp, host: h, sender: a@b.org, to: []", "to has 0 entries"),
        ("kind: smtp, host: 'h/x', sender: a@b.org, to: [c@d.org]", "host 'h/x' is not a host"),
        (f"{SMTP}, port: 0", "port is 0"),
        (f"{SMTP}, security: ssl", "security 'ssl' is not one of starttls, tls, none"),
        (f"{SMTP}, user: u", "a user needs a password"),
        (f"{SMTP}, secret_env: PW", "a password goes with a user"),
        (f"{SMTP}, user: u, secret_env: PW, security: none", "would cross the network unencrypted"),
        (f"{SMTP}, user: u, secret_env: PW, secret_file: /f", "both say where the secret is"),
        ("kind: telegram, to: [1]", "telegram needs the bot's token"),
        ("kind: telegram, to: [joe], secret_env: T", "'joe' is not the id of a chat"),
        ("kind: webhook", "a webhook needs a url, or a secret_env or secret_file with the whole URL"),
        ("kind: webhook, url: 'ftp://h/'", "url is not a URL such as"),
        ("kind: webhook, url: 'http://'", "url is not a URL such as"),
        ("kind: webhook, url: 'http://h:99999/'", "url is not a URL such as"),
        ("kind: webhook, shape: teams, url: 'http://h/'", "shape 'teams' is not one of generic, slack"),
        ("kind: log, severity: error", "unknown key 'severity'"),
    ],
)
def test_a_wrong_channel_is_told(refused: Refuse, fields: str, told: str) -> None:
    said = refused(channel(fields))
    assert told in said
    assert "farm.yaml, line 3, column " in said


@pytest.mark.parametrize(
    "fields",
    [
        f"{SMTP}, user: u, password: hunter22",
        "kind: telegram, to: [1], token: hunter22",
        "kind: telegram, to: [1], bot_token: hunter22",
        "kind: telegram, to: [1], secret_env: '123:hunter22'",
        "kind: telegram, to: [1], secret_env: ghp_hunter22",
        "kind: telegram, to: [1], secret_env: T, url: 'https://api.telegram.org/bot12:hunter22'",
        "kind: webhook, url: 'https://hooks.slack.com/services/T0/B0/hunter22'",
        "kind: webhook, url: 'https://discord.com/api/webhooks/1/hunter22'",
        "kind: webhook, url: 'https://u:hunter22@h/'",
        "kind: webhook, url: 'https://h/?api_token=hunter22'",
        "kind: webhook, url: 'https://h/', headers: {Authorization: hunter22}",
        "kind: webhook, url: 'https://h/', auth: hunter22",
    ],
)
def test_a_secret_in_a_manifest_is_refused_and_not_repeated(refused: Refuse, fields: str) -> None:
    said = refused(channel(fields))
    assert "secret" in said
    assert "hunter22" not in said


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("channels: [{name: c, kind: log}], routes: [{to: [d]}]", "column 66: there is no channel 'd'"),
        ("channels: [{name: mail, kind: log}], routes: [{to: [male]}]", "no channel 'male'; did you mean 'mail'?"),
        ("channels: [{name: c, kind: log}], routes: [{to: [c], fleets: [b]}]", "there is no fleet 'b'"),
        ("channels: [{name: c, kind: log}], routes: [{to: [c], severity: eror}]", "did you mean 'error'?"),
        ("channels: [{name: c, kind: log}], routes: [{to: []}]", "to has 0 entries"),
        ("channels: [{name: c, kind: log}], routes: [{severity: info}]", "lacks 'to'"),
        ("channels: [{name: c, kind: log}, {name: c, kind: log}]", "has 'c' twice"),
        ("cooldown_s: 0", "cooldown_s is 0, but must be from 1"),
        ("group_s: 2h", "group_s is 7200 seconds, but must be from 0 to 3,600"),
        ("quiet: [{start: 22:00}]", "lacks 'end'"),
        ("quiet: [{start: 25:00, end: 07:00}]", "start '25:00' is not a time of day"),
        ("quiet: [{start: 22:00, end: 7am}]", "end '7am' is not a time of day"),
        ("quiet: [{start: 2200, end: 07:00}]", "start '2200' is not a time of day"),
        ("quiet: [{start: 07:00, end: 07:00}]", "quiet from 07:00 to 07:00 is no time at all"),
        ("quiet: [{start: 22:00, end: 07:00, timezone: Berlin}]", "timezone 'Berlin' is not a timezone known here"),
        ("quiet: [{start: 22:00, end: 07:00, but: info}]", "nothing would be quiet"),
        ("quiet: [{start: 22:00, end: 07:00, but: fatal}]", "but 'fatal' is not one of info, warning, error, critical"),
        ("chanels: []", "unknown key 'chanels' in notifications; did you mean 'channels'?"),
    ],
)
def test_wrong_notifications_are_told(refused: Refuse, fields: str, told: str) -> None:
    said = refused(notify(fields))
    assert told in said
    assert "farm.yaml, line 3, column " in said


def test_notifications_stand_in_one_manifest_alone(refused: Refuse) -> None:
    told = refused(notify(""), "paddock: 1\nnotifications: {}")
    assert told == (
        "more.yaml, line 2, column 1: notifications are there already: farm.yaml, line 3, column 1; "
        "they apply as a whole, so write one"
    )


def test_what_is_allowed_but_odd_is_said(read: Read) -> None:
    fields = f"channels: [{{name: c, {SMTP}, security: none}}, {{name: d, kind: log}}], routes: [{{to: [c]}}]"
    told: Any = read(notify(fields)).warnings
    assert len(told) == 2
    assert "mail of channel 'c' is sent unencrypted" in told[0]
    assert "no route names the channel 'd'; nothing is sent by it" in told[1]


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["agents.md", "alerts.md"])
def test_the_manifests_of_the_documentation_are_good(read: Read, page: str) -> None:
    found = re.findall(r"```yaml\n(paddock: 1\n.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert found
    others = {"shop": FleetSpec(name="shop", runtime="exec", command=["x"])}
    for text in found:
        assert read(text, others=others).warnings == []

"""Bad manifests are refused whole, with the place, what is wrong, and what to do."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.model.errors import Refused
from paddock.model.fleet import FleetSpec
from paddock.model.manifest import FLEETS_MAX, ManifestSource, load
from paddock.model.yaml_source import NODES_MAX, TEXT_BYTES_MAX

Refuse = Callable[..., str]


def fleet(fields: str) -> str:
    return "paddock: 1\nfleets:\n  a:\n" + "".join(f"    {line}\n" for line in fields.splitlines())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1, column 1: the manifest is empty; begin with 'paddock: 1'"),
        ("# only a comment\n", "the manifest is empty"),
        ("---\n...\n", "the manifest is empty"),
        ("- paddock\n", "line 1, column 1: a manifest is a mapping"),
        ("just text", "a manifest is a mapping"),
        ("paddock: 1\nfleets:\n\ta: x\n", "line 3, column 1: not YAML"),
        ("paddock: 1\nfleets:\n\ta: x\n", "indent with spaces, not tabs"),
        ("paddock: 1\nfleets: {a: [}\n", "line 2, column 14: not YAML"),
        ("paddock: 1\nfleets: {a: 'x\n", "not YAML"),
        (
            "paddock: 1\na: b: c\n",
            "line 2, column 5: not YAML: mapping values are not allowed",
        ),
        ("paddock: 1\na: b: c\n", "; put a text that holds ': ' in quotes"),
        ("paddock: 1\nfleets: {a: {command: 'a\0b'}}", "line 2, column 25: the character U+0000"),
        ("paddock: 1\nfleets: {a: {command: 'a\x1bb'}}", "U+001B may not stand in YAML"),
        ("paddock: 1\nfleets: {a: {command: 'a\ud800b'}}", "U+D800 may not stand in YAML"),
        ('paddock: 1\nfleets: {a: {command: "a\\0b"}}', "line 2, column 23: fleets.a.command holds a NUL character"),
        ("paddock: 1\n---\npaddock: 1\n", "line 2, column 1: a second document starts here"),
        ("paddock: 1\nfleets: {a: {command: !!python/name:os.system x}}", "line 2, column 23: the tag"),
        ("paddock: 1\n? [a, b]\n: c\n", "line 2, column 3: a key must be a plain name"),
        ("fleets: {}", "line 1, column 1: the manifest does not say its version; add 'paddock: 1'"),
        ("paddock: 2\nwhatever: 5", "line 1, column 10: paddock '2' is not a version read here; this Paddock reads"),
        ("paddock: yes", "this Paddock reads version 1"),
        ("paddock: [1]", "this Paddock reads version 1"),
        ("paddock: 1\nfleet: {}", "line 2, column 1: unknown key 'fleet'; did you mean 'fleets'?"),
        ("paddock: 1\nqwerty: {}", "unknown key 'qwerty'; known are paddock, templates, fleets"),
        ("paddock: 1\nfleets: [a]", "line 2, column 9: fleets must be a mapping, not a list"),
        ("paddock: 1\nfleets:\n", "fleets has no value"),
        ("paddock: 1\nfleets: {a: }", "fleets.a has no value; write a mapping"),
        ("paddock: 1\nfleets: {A b: {command: x}}", "line 2, column 10: fleet 'A b' is not a name: use 1 to 63 of"),
        ("paddock: 1\nfleets: {a: {command: x}, a: {command: y}}", "the key 'a' stands here again, first in line 2"),
        ("paddock: 1\nfleets: {a: {template: hen}}\ntemplates: {hens: {agent: 'm:C'}}", "did you mean 'hens'?"),
        ("paddock: 1\nfleets: {a: {template: hen}}", "line 2, column 24: there is no template 'hen'"),
        ("paddock: 1\ntemplates: {t: {template: u}}", "unknown key 'template' in templates.t"),
        ("paddock: 1\nflags: [x]", "flags must be a mapping, not a list"),
        ("paddock: 1\na: *b", "'*b' repeats '&b', which does not stand before it"),
        ("paddock: 1\na: {<<: 5}", "'<<' merges a mapping"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(refused: Refuse, text: str, told: str) -> None:
    message = refused(text)
    assert "farm.yaml, line " in message
    assert told in message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("command: x\nreplica: 3", "line 5, column 5: unknown key 'replica' in fleets.a; did you mean 'replicas'?"),
        ("command: x\nRestart: {}", "did you mean 'restart'?"),
        (
            "command: x\nrestart: {maks: 3}",
            "line 5, column 15: unknown key 'maks' in fleets.a.restart; did you mean 'max'",
        ),
        ("command: x\nreplicas: many", "line 5, column 15: fleets.a.replicas must be a whole number, not a text"),
        ("command: x\nreplicas: true", "must be a whole number, not true or false"),
        ("command: x\nreplicas: 012", "may mean two numbers; write no 0 first"),
        ("command: x\nreplicas: 2.5", "must be a whole number, not 2.5"),
        ("command: x\nreplicas: -1", "fleets.a.replicas is -1, but must be from 0 to 10,000"),
        ("command: x\nreplicas: 10001", "is 10001, but must be from 0 to 10,000"),
        ("command: x\nreplicas: " + "9" * 399, "but must be from 0 to 10,000"),
        ("command: x\nreplicas: .nan", "must be a finite number, not .nan"),
        ("command: x\nreplicas:", "fleets.a.replicas has no value; write a whole number, or remove the line"),
        ("command: x\nreplicas: 1\nowners: [b]", "line 5, column 5: replicas and owners cannot stand together"),
        ("command: x\nowners: [b, c, b]", "line 5, column 20: fleets.a.owners has 'b' twice, first in line 5"),
        ("command: x\nowners: []", "fleets.a.owners has 0 entries"),
        ("command: x\nowners: [Ann]", "fleets.a.owners[0] 'Ann' is not a name"),
        ("command: x\nstop_grace_s: -5", "is -5, but must be from 0"),
        ("command: x\nstop_grace_s: .inf", "must be a finite number"),
        ("command: x\nstop_grace_s: 1e300", "is 1e300, but must be from 0"),
        ("command: x\nstop_grace_s: 1:30", "'1:30' is not a duration; write seconds or a text such as 30s, 5m"),
        ("command: x\nstop_grace_s: 9999d", "seconds, but must be from 0"),
        ("command: x\nstop_signal: SIGTREM", "is not a signal of this system; did you mean 'SIGTERM'?"),
        ("command: x\nlimits: {memory_bytes: 64}", "is 64 bytes, but must be from 1,048,576"),
        ("command: x\nlimits: {memory_bytes: 64XB}", "'64XB' is not a size; write bytes or a text such as 64MiB"),
        ("command: x\nlimits: {memory_bytes: 1.5}", "must be whole bytes"),
        (
            "command: x\nlimits: {open_files: 3}",
            "line 5, column 14: limits.open_files is 3, with which no program starts",
        ),
        ("command: x\nhealth: {beat: maybe}", "fleets.a.health.beat must be true or false, not a text"),
        ("command: x\nhealth: {http: localhost}", "fleets.a.health.http is not a URL"),
        ("command: x\nrestart: {mode: allways}", "is not one of always, on-failure, never; did you mean 'always'?"),
        ("command: x\nrestart: {backoff_s_min: 40}", "restart.backoff_s_min (40) is over backoff_s_max (30)"),
        (
            "agent: m:C\ncommand: x",
            "line 5, column 5: a fleet has either agent or command, and agent is given in line 4",
        ),
        ("replicas: 3", "line 4, column 5: a fleet needs an agent (such as 'paddock.foundry:Critic') or a command"),
        ("agent: m:C\nruntime: exec", "runtime exec goes with command"),
        (
            "agent: farm/hen.py",
            "fleets.a.agent 'farm/hen.py' is not of the form module:Class; did you mean 'farm.hen:Class'",
        ),
        ("agent: farm.hen.Hen", "did you mean 'farm.hen:Hen'?"),
        ("agent: 'farm:'", "is not of the form module:Class; did you mean 'farm:Class'?"),
        ("agent: '::'", "is not of the form module:Class, such as 'paddock.foundry:Executor'"),
        ("command: []", "its first word must be the program to start"),
        ("command: ''", "is empty"),
        ("command: [x, {port}]", "must be a word of the command, not a mapping; put quotes around {port}"),
        ('command: "sh -c \'x"', "cannot be split into words: no closing quotation"),
        ("command: 5", "must be a list of words, or one text, not a number"),
        ("command: x\nenv: [A]", "fleets.a.env must be a mapping, not a list"),
        ("command: x\nenv: {A-B: c}", "fleets.a.env: the name 'A-B' is not a variable's name"),
        ("command: x\nenv: {A: }", "fleets.a.env.A has no value"),
        ("command: x\nenv: {PADDOCK_EPOCH: 5}", "env.PADDOCK_EPOCH is set by Paddock itself; remove it"),
        (
            "command: x\nenv: {TOKEN: y}\nsecret_env: [TOKNE]",
            "secret_env names 'TOKNE', which env does not set; did you",
        ),
        ("command: x\ncwd: ~/farm", "'~' is not replaced here; write the whole path"),
        ("command: x\nports: 8080", "for one port write true, for a fixed one write {port: 8080}"),
        ("command: x\nports: {http: 70000}", "is 70000, but must be from 1 to 65,535"),
        ("command: x\nports: [HTTP]", "fleets.a.ports[0] 'HTTP' is not a port name"),
        ("command: x\nports: {http: 80}\nreplicas: 2", "port clash: 2 agents cannot share the fixed port 80"),
        ("command: x\nports: {http: 80, web: 80}", "port clash: a.web and a.http both want the fixed port 80"),
        ("command: x\ncapabilities: [Code Review]", "fleets.a.capabilities[0] 'Code Review' is not a name"),
        ("command: x\ndepends_on: [b]", "line 5, column 18: a depends on the fleet 'b', which does not exist"),
        ("command: x\ndepends_on: [a]", "fleets depend on each other in a circle: a → a"),
        ("command: x\nconfig: {x: .inf}", "fleets.a.config.x is not a finite number"),
        (f"command: x\nconfig: {{x: {2**64}}}", "fleets.a.config.x is a number of more than 64 bits"),
        ("command: x\nschedules: [{cron: '* * * * *', method: m}]", "fleets.a.schedules[0] lacks 'name'"),
        ("command: x\nschedules: [{name: n, cron: '@daily', method: m}]", "must have five fields"),
        ("command: x\nschedules: [{name: n, cron: '* * * * * *', method: m}]", "must have five fields"),
        ("command: x\nschedules: [{name: n, cron: '61 * * * *', method: m}]", "is not cron: bad minute"),
        ("command: x\nschedules: [{name: n, cron: '0 0 30 2 *', method: m}]", "is not cron: bad day-of-month"),
        ("command: x\nschedules: [{name: n, cron: '0 0 */10 2 1#5', method: m}]", "names a day that never comes"),
        (
            "command: x\nschedules: [{name: n, cron: '0 0 * 2 1#5,2#5', method: m, timezone: Mars/Base}]",
            "'Mars/Base' is not",
        ),
        (
            "command: x\nschedules: [{name: n, cron: '* * * * *', method: m, timezone: Europe/Berln}]",
            "'Europe/Berlin'?",
        ),
        ("command: x\nschedules: [{name: n, cron: '* * * * *', method: m, timezone: ../etc}]", "is not a timezone"),
        ("command: x\nschedules: [{name: n, cron: '* * * * *', method: m, timezone: America}]", "is not a timezone"),
        (
            "command: x\nmethods: [send]\nschedules: [{name: n, cron: '* * * * *', method: sned}]",
            "schedule 'n' calls 'sned', which is not among the methods; did you mean 'send'?",
        ),
        ("command: x\nmethods: [a, a]", "fleets.a.methods has 'a' twice"),
        ("command: x\nmethods: [a-b]", "'a-b' is not a method"),
        ("command: x\nmethods: [{name: a}, a]", "fleets.a.methods has 'a' twice"),
    ],
)
def test_a_wrong_field_is_refused_with_the_place_and_what_to_do(refused: Refuse, fields: str, told: str) -> None:
    message = refused(fleet(fields))
    assert "farm.yaml, line " in message
    assert told in message


def test_a_manifest_of_ten_megabytes_is_refused_by_its_size(refused: Refuse) -> None:
    assert f"10,000,000 bytes, over the limit of {TEXT_BYTES_MAX:,}" in refused("#" * 10_000_000)
    assert "over the limit" in refused("é" * (TEXT_BYTES_MAX // 2 + 1))


def test_a_bomb_of_anchors_is_refused_without_being_blown_up(refused: Refuse) -> None:
    letters = string.ascii_lowercase[:12]
    lines = [f"a: &a [{', '.join('x' * 10)}]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in itertools.pairwise(letters)]
    assert f"more than {NODES_MAX:,} values" in refused("\n".join(lines))


def test_a_bomb_of_one_long_text_is_refused(refused: Refuse) -> None:
    assert "written out; repeat less" in refused(f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 50)}]")


def test_a_bomb_of_merge_keys_is_refused(refused: Refuse) -> None:
    keys = ", ".join(f"k{index}: v" for index in range(1000))
    lines = [f"a: &a {{{keys}}}", *(f"m{index}: {{<<: *a}}" for index in range(200))]
    assert "with all aliases" in refused("\n".join(lines))


def test_many_fleets_of_one_huge_template_are_refused(refused: Refuse) -> None:
    items = ", ".join("x" * 20_000)
    fleets = ", ".join(f"f{index}: {{template: t}}" for index in range(50))
    text = f"paddock: 1\ntemplates: {{t: {{command: x, config: {{x: [{items}]}}}}}}\nfleets: {{{fleets}}}"
    assert "too large together" in refused(text)


def test_an_anchor_within_itself_is_refused(refused: Refuse) -> None:
    assert "line 1, column 8: '*a' stands inside what it repeats" in refused("a: &a [*a]")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "a: &a [[[[[[[[[[[[1]]]]]]]]]]]]\nb: &b [[[[[[[[[[[[*a]]]]]]]]]]]]\nc: [[[[[[[*b]]]]]]]",
    ],
)
def test_deep_nesting_is_refused(refused: Refuse, text: str) -> None:
    assert "nested deeper than 30 levels" in refused(text)


def test_a_spec_that_no_message_could_carry_is_refused(refused: Refuse) -> None:
    texts = ", ".join(f"k{index}: {'x' * 30_000}" for index in range(15))
    assert "over the limit of 400,000; keep large data in files" in refused(fleet(f"command: x\nconfig: {{{texts}}}"))


def test_too_many_fleets_are_refused(refused: Refuse) -> None:
    fleets = ", ".join(f"f{index}: {{command: x}}" for index in range(FLEETS_MAX + 1))
    assert "over the limit of 1,000" in refused(f"paddock: 1\nfleets: {{{fleets}}}")


def test_no_and_too_many_files_are_refused() -> None:
    with pytest.raises(Refused, match="no manifest was given"):
        load([])
    with pytest.raises(Refused, match="101 manifests were given"):
        load([ManifestSource(name="a", text="")] * 101)


def test_several_mistakes_are_told_together_in_their_order(refused: Refuse) -> None:
    message = refused(fleet("replica: 3\ncommand: x\nstop_grace_s: soon\nowners: [A]"))
    lines = message.splitlines()
    assert lines[0] == "3 mistakes in the manifest:"
    assert [line.split(", column")[0] for line in lines[1:]] == [f"farm.yaml, line {number}" for number in (4, 6, 7)]


def test_ten_mistakes_are_enough(refused: Refuse) -> None:
    message = refused(fleet("command: x\n" + "\n".join(f"wrong{index}: 1" for index in range(50))))
    assert message.count("unknown key") == 10
    assert message.endswith("(reading stopped after 10 mistakes)")


def test_mistakes_in_several_files_are_told_together(refused: Refuse) -> None:
    message = refused("paddock: 1\nfleets: {a: {}}", "[", "paddock: 3")
    assert [name for name in ("farm.yaml", "more.yaml", "third.yaml") if name in message] == [
        "farm.yaml",
        "more.yaml",
        "third.yaml",
    ]


def test_the_same_fleet_in_two_files_is_refused_naming_both(refused: Refuse) -> None:
    message = refused(fleet("command: x"), "paddock: 1\nfleets: {a: {command: y}}")
    assert message.startswith(
        "more.yaml, line 2, column 10: the fleet 'a' is there already: farm.yaml, line 3, column 3;"
    )


def test_a_mistake_in_a_template_is_told_once_and_not_for_every_fleet(refused: Refuse) -> None:
    message = refused(
        "paddock: 1\ntemplates: {t: {agent: 'm:C', replicas: x}}\nfleets: {a: {template: t}, b: {template: t}}"
    )
    assert message == ("farm.yaml, line 2, column 41: templates.t.replicas must be a whole number, not a text")


def test_a_circle_of_dependencies_is_printed(refused: Refuse) -> None:
    message = refused(
        "paddock: 1\nfleets:\n"
        "  z: {command: x, depends_on: [a]}\n"
        "  a: {command: x, depends_on: [b]}\n"
        "  b: {command: x, depends_on: [c]}\n"
        "  c: {command: x, depends_on: [a]}\n"
    )
    assert message == "farm.yaml, line 4, column 19: fleets depend on each other in a circle: a → b → c → a"


def test_a_long_circle_is_cut(refused: Refuse) -> None:
    fleets = ", ".join(f"f{index}: {{command: x, depends_on: [f{(index + 1) % 50}]}}" for index in range(50))
    assert "circle: f0 → f1 → f2 → f3 → f4 → f5 → f6 → f7 → f8 → f9 → (40 more) → f0" in refused(
        f"paddock: 1\nfleets: {{{fleets}}}"
    )


def test_a_circle_through_fleets_that_exist_already_is_found(refused: Refuse) -> None:
    others = {"db": FleetSpec(name="db", runtime="exec", command=["db"], depends_on=["a"])}
    assert "a → db → a" in refused(fleet("command: x\ndepends_on: [db]"), others=others)


def test_a_fixed_port_can_be_had_once(refused: Refuse) -> None:
    two = "paddock: 1\nfleets: {a: {command: x, ports: {http: 80}}, b: {command: y, ports: {web: 80}}}"
    assert "line 2, column 70: port clash: b.web and a.http both want the fixed port 80" in refused(two)
    others = {"old": FleetSpec(name="old", runtime="exec", command=["x"], ports=["http=80"])}
    assert "a.http and old.http both want" in refused(fleet("command: x\nports: {http: 80}"), others=others)


def test_relative_folders_need_a_folder_to_be_relative_to(refused: Refuse) -> None:
    assert "came without a folder; write the whole path" in refused(fleet("command: x\ncwd: data"), folder="")
    assert "came without a folder" in refused(fleet("agent: m:C\npythonpath: [src]"), folder="farm")


@pytest.mark.parametrize(
    "fields",
    [
        "command: x\nenv: {KEY: [hunter2]}\nsecret_env: [KEY]",
        "command: x\nhealth: {http: 'ftp://user:hunter2@host'}",
        'command: "run --token hunter2 \'x"',
        "command: x\nconfig: {password: {x: hunter2, y: .nan}}",
    ],
)
def test_messages_never_hold_values_that_may_be_secret(refused: Refuse, fields: str) -> None:
    assert "hunter2" not in refused(fleet(fields))


_WORDS = st.sampled_from(
    "paddock:·1\n|fleets:\n|··a:\n|····|command|agent|:·|x|m:C|[|]|{|}|,|\n|&a·|*a|<<:·|-·|'|\"|>·|!!str·|?·|#·|env|ports|"
    "replicas|true|-1|.inf|\t|owners|schedules|cron|restart".replace("·", " ").split("|")
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(_WORDS, max_size=40).map("".join)))
def test_whatever_comes_is_read_or_refused_with_a_place(text: str) -> None:
    told = "farm.yaml, line "
    try:
        load([ManifestSource(name="farm.yaml", text=text, folder="/srv")])
    except Refused as refusal:
        told = refusal.message
    assert "farm.yaml, line " in told

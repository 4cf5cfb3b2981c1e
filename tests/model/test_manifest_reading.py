"""What a manifest that is accepted turns into."""

from __future__ import annotations

from typing import Any

import pytest

from paddock.model.fleet import FleetSpec, Health, Method, Schedule
from paddock.model.manifest import ManifestSource, load


def fleet(fields: str) -> str:
    """A manifest with one fleet `a`; `fields` one a line."""
    return "paddock: 1\nfleets:\n  a:\n" + "".join(f"    {line}\n" for line in fields.splitlines())


def test_the_example_of_the_design_is_read(read: Any) -> None:
    manifest = read(
        "paddock: 1\n"
        "fleets:\n"
        '  architect: {agent: "paddock.foundry:Architect", replicas: 1, capabilities: [design]}\n'
        '  mailer:    {command: ["node", "mailer.js"], replicas: 3, health: {http: "http://127.0.0.1:{port}/health"}}\n'
    )
    architect, mailer = manifest.fleets["architect"], manifest.fleets["mailer"]
    assert (architect.runtime, architect.agent) == ("python", "paddock.foundry:Architect")
    assert architect.capabilities == ["design"]
    assert architect.pythonpath == ["/srv/farm"]
    assert architect.health.beat
    assert (mailer.runtime, mailer.command, mailer.replicas) == ("exec", ["node", "mailer.js"], 3)
    assert mailer.ports == ["port"]
    assert not mailer.health.beat
    assert mailer.cwd == "/srv/farm"
    assert manifest.warnings == []


def test_all_fields_arrive_where_they_belong(read: Any) -> None:
    spec = read(
        fleet(
            "command: [python, -m, http.server, '{port.http}']\n"
            "owners: [user-42, 7]\n"
            "env: {KEY: s3cret, LEVEL: debug}\n"
            "secret_env: [KEY]\n"
            "user: nobody\n"
            "stop_signal: int\n"
            "stop_grace_s: 1m\n"
            "concurrency: 4\n"
            "restart: {mode: on-failure, max: 3, backoff_s_min: 250ms, backoff_s_max: 1h30m}\n"
            "health: {beat: yes, start_s: 5, every_s: 0.5}\n"
            "limits: {memory_bytes: 64MiB, cpus: 0.5, open_files: 100}\n"
            "logs: {max_bytes: 10MB, keep: 1}\n"
            "config: {deep: {list: [1, 2.5, text, true, null]}}\n"
            "queue_limit: 7\n"
            "ack_wait_s: 20\n"
            "methods: [tidy, {name: send, args: {type: object}, timeout_s: 3, retries: 2}]\n"
            "schedules: [{name: nightly, cron: '0 3 * * *', method: tidy, priority: low, timezone: Europe/Berlin}]\n"
        )
    ).fleets["a"]
    assert spec.names() == ["user-42", "7"]
    assert spec.ports == ["http"]
    assert (spec.stop_signal, spec.stop_grace_s, spec.concurrency) == ("SIGINT", 60.0, 4)
    assert (spec.restart.mode, spec.restart.backoff_s_min, spec.restart.backoff_s_max) == ("on-failure", 0.25, 5400.0)
    assert spec.health == Health(beat=True, start_s=5.0, every_s=0.5)
    assert (spec.limits.memory_bytes, spec.limits.cpus) == (67_108_864, 0.5)
    assert spec.logs.max_bytes == 10_000_000
    assert spec.config == {"deep": {"list": [1, 2.5, "text", True, None]}}
    assert spec.methods == [Method(name="tidy"), Method(name="send", args={"type": "object"}, timeout_s=3.0, retries=2)]
    assert spec.schedules == [
        Schedule(name="nightly", cron="0 3 * * *", method="tidy", priority="LOW", timezone="Europe/Berlin")
    ]


def test_defaults_are_those_of_the_spec(read: Any) -> None:
    spec = read(fleet("agent: farm:Hen")).fleets["a"]
    assert spec == FleetSpec(
        name="a", runtime="python", agent="farm:Hen", pythonpath=["/srv/farm"], template="a", version=spec.version
    )


def test_values_that_yaml_1_1_would_twist_stay_as_they_are_written(read: Any) -> None:
    spec = read(
        fleet(
            "agent: farm:Hen\n"
            "capabilities: [on, 5432, no]\n"
            "env: {A: on, B: 5432, C: 012, D: 1:30, E: true, F: 1_000, G: 1.50, H: 2024-01-01, I: '', J: Yes}\n"
            "config: {country: no, zip: 01234, time: 1:30, day: 2024-01-01, really: true}\n"
        )
    ).fleets["a"]
    assert spec.capabilities == ["on", "5432", "no"]
    assert list(spec.env.values()) == ["on", "5432", "012", "1:30", "true", "1_000", "1.50", "2024-01-01", "", "Yes"]
    assert spec.config == {"country": "no", "zip": "01234", "time": "1:30", "day": "2024-01-01", "really": True}


def test_a_command_in_one_text_is_split_as_a_shell_would(read: Any) -> None:
    manifest = read(fleet("command: sh -c 'exec sleep 5'"))
    assert manifest.fleets["a"].command == ["sh", "-c", "exec sleep 5"]
    assert manifest.warnings == []


def test_shell_operators_in_a_command_are_warned_of(read: Any) -> None:
    manifest = read(fleet("command: cat x | wc"))
    assert "farm.yaml, line 4, column 14: no shell runs this command" in manifest.warnings[0]


def test_a_pythonpath_beside_a_command_is_warned_of(read: Any) -> None:
    manifest = read(fleet("command: x\npythonpath: [src]"))
    assert "only used with agent" in manifest.warnings[0]


@pytest.mark.parametrize(
    ("fields", "ports"),
    [
        ("command: serve\nports: true", ["port"]),
        ("command: serve\nports: 1", ["port"]),
        ("command: serve\nports: false", []),
        ("command: serve --at {port} --admin {port.admin}", ["port", "admin"]),
        ("command: serve\nenv: {AT: ':{port}'}", ["port"]),
        ("command: serve {port.http}\nports: [http, admin]", ["http", "admin"]),
        ("command: serve {port.http}\nports: {http: 8080}", ["http=8080"]),
        ("agent: m:C\nhealth: {http: 'http://127.0.0.1:{port.web}/'}", ["web"]),
        ("agent: m:C\nenv: {AT: '{port}'}", []),
    ],
)
def test_ports_are_those_listed_and_those_that_are_used(read: Any, fields: str, ports: list[str]) -> None:
    assert read(fleet(fields)).fleets["a"].ports == ports


def test_folders_are_relative_to_the_manifest_that_names_them(read: Any) -> None:
    spec = read(fleet("agent: m:C\ncwd: ../data\npythonpath: [src, ., /opt/lib]")).fleets["a"]
    assert spec.cwd == "/srv/data"
    assert spec.pythonpath == ["/srv/farm/src", "/srv/farm", "/opt/lib"]


def test_a_template_from_another_file_keeps_its_own_folder() -> None:
    manifest = load(
        [
            ManifestSource(name="a.yaml", text="paddock: 1\nfleets: {a: {template: hen}}", folder="/srv/a"),
            ManifestSource(name="b.yaml", text="paddock: 1\ntemplates: {hen: {agent: m:C, cwd: x}}", folder="/srv/b"),
        ]
    )
    assert (manifest.fleets["a"].pythonpath, manifest.fleets["a"].cwd) == (["/srv/b"], "/srv/b/x")


def test_a_manifest_without_a_folder_gets_no_pythonpath(read: Any) -> None:
    assert read(fleet("agent: m:C"), folder="").fleets["a"].pythonpath == []
    assert read(fleet("command: x"), folder="").fleets["a"].cwd == ""


def test_a_fleet_overrides_its_template_and_mappings_merge(read: Any) -> None:
    manifest = read(
        "paddock: 1\n"
        "templates:\n"
        "  hen: {agent: m:C, replicas: 3, env: {A: 1, B: 2}, restart: {max: 5, window_s: 9},"
        " config: {x: {y: 1, z: 2}}}\n"
        "fleets:\n"
        "  a: {template: hen, env: {B: 3}, restart: {max: 6}, config: {x: {y: 5}}, capabilities: [lay]}\n"
        "  b: {template: hen, command: [run], owners: [ann]}\n"
    )
    a, b = manifest.fleets["a"], manifest.fleets["b"]
    assert (a.agent, a.replicas, a.env, a.template) == ("m:C", 3, {"A": "1", "B": "3"}, "hen")
    assert (a.restart.max, a.restart.window_s) == (6, 9.0)
    assert a.config == {"x": {"y": 5, "z": 2}}
    assert (b.runtime, b.command, b.agent, b.names()) == ("exec", ["run"], "", ["ann"])


def test_anchors_and_merge_keys_work(read: Any) -> None:
    spec = read(
        "paddock: 1\n"
        "fleets:\n"
        "  a: &base {agent: m:C, env: &env {A: x}}\n"
        "  b: {<<: *base, env: {<<: *env, B: y}, replicas: 2}\n"
    ).fleets["b"]
    assert (spec.agent, spec.env, spec.replicas) == ("m:C", {"A": "x", "B": "y"}, 2)


def test_several_manifests_are_read_as_one(read: Any) -> None:
    manifest = read(fleet("agent: m:C\ndepends_on: [b]"), "paddock: 1\nfleets: {b: {command: x}}")
    assert list(manifest.fleets) == ["a", "b"]


def test_fleets_that_exist_already_may_be_depended_on(read: Any) -> None:
    others = {"db": FleetSpec(name="db", runtime="exec", command=["db"])}
    assert read(fleet("agent: m:C\ndepends_on: [db]"), others=others).fleets["a"].depends_on == ["db"]


def test_sections_of_later_versions_are_read_with_a_warning(read: Any) -> None:
    manifest = read("paddock: 1\nfleets: {a: {command: x}}\nflags: {}\n")
    assert manifest.warnings == ["farm.yaml, line 3, column 1: flags is read but not used by this version"]


def test_a_manifest_without_fleets_says_so(read: Any) -> None:
    assert read("paddock: 1\nfleets: {}").warnings == ["no fleets are named, so nothing is to run"]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(read: Any) -> None:
    assert list(read("\ufeffpaddock: 1\r\nfleets:\r\n  a: {command: x}\r\n").fleets) == ["a"]


@pytest.mark.parametrize(
    "change",
    ["env: {A: '2'}", "concurrency: 2", "limits: {cpus: 1}", "config: {x: 1}", "cwd: /tmp", "user: me", "ports: true"],
)
def test_the_version_changes_with_what_an_agent_is_made_of(read: Any, change: str) -> None:
    before = read(fleet("command: x")).fleets["a"].version
    assert read(fleet(f"command: x\n{change}")).fleets["a"].version != before


@pytest.mark.parametrize(
    "change", ["replicas: 5", "capabilities: [x]", "queue_limit: 5", "restart: {max: 1}", "logs: {keep: 1}"]
)
def test_the_version_stays_when_running_agents_may_stay(read: Any, change: str) -> None:
    before = read(fleet("command: x")).fleets["a"].version
    assert read(fleet(f"command: x\n{change}")).fleets["a"].version == before


def test_a_changed_secret_changes_the_version(read: Any) -> None:
    one, two = (read(fleet(f"command: x\nsecret_env: [K]\nenv: {{K: {value}}}")).fleets["a"] for value in "pq")
    assert one.version != two.version


def test_ten_thousand_owners_are_read(read: Any) -> None:
    owners = ", ".join(f"user-{index}" for index in range(10_000))
    assert len(read(fleet(f"agent: m:C\nowners: [{owners}]")).fleets["a"].names()) == 10_000

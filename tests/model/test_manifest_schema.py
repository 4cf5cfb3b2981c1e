"""The published schema says what the reader does. (The fixture `read` holds every accepted manifest against it.)"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import paddock.model
from paddock.model.fleet import FleetSpec, Health, Limits, Logs, Restart
from paddock.model.health import Probe
from paddock.model.kinds import ByKind
from paddock.model.manifest import ManifestSource, schema
from paddock.model.manifest_fields import FLEET
from paddock.model.manifest_health import PROBE
from paddock.model.manifest_notify import NOTIFICATIONS
from paddock.model.manifest_policy import POLICY
from paddock.model.notify import Channel, Notifications, Quiet, Route
from paddock.model.policy import Budget, Forecasting, Policy, Scoring, Storm
from paddock.model.shapes import ListOf, Record
from paddock.model.yaml_source import Mistakes, parse, plain

COMMITTED = Path(paddock.model.__file__).with_name("manifest.schema.json")

SIMPLE_MISTAKES = [
    "fleets: {}",
    "paddock: 2",
    "paddock: true",
    "paddock: 1\nfleet: {}",
    "paddock: 1\nfleets: []",
    "paddock: 1\nfleets: {Big: {command: x}}",
    "paddock: 1\nfleets: {a: }",
    "paddock: 1\nfleets: {a: {}}",
    "paddock: 1\nfleets: {a: {agent: 'm:C', command: x}}",
    "paddock: 1\nfleets: {a: {agent: mC}}",
    "paddock: 1\nfleets: {a: {command: []}}",
    "paddock: 1\nfleets: {a: {command: x, replica: 3}}",
    "paddock: 1\nfleets: {a: {command: x, replicas: true}}",
    "paddock: 1\nfleets: {a: {command: x, replicas: 10001}}",
    "paddock: 1\nfleets: {a: {command: x, replicas: -1}}",
    "paddock: 1\nfleets: {a: {command: x, replicas: 1.5}}",
    "paddock: 1\nfleets: {a: {command: x, replicas: }}",
    "paddock: 1\nfleets: {a: {command: x, replicas: 1, owners: [b]}}",
    "paddock: 1\nfleets: {a: {command: x, owners: [b, b]}}",
    "paddock: 1\nfleets: {a: {command: x, env: [A]}}",
    "paddock: 1\nfleets: {a: {command: x, env: {A-B: c}}}",
    "paddock: 1\nfleets: {a: {command: x, stop_grace_s: soon}}",
    "paddock: 1\nfleets: {a: {command: x, limits: {memory_bytes: 64XB}}}",
    "paddock: 1\nfleets: {a: {command: x, health: {http: here}}}",
    "paddock: 1\nfleets: {a: {command: x, restart: {mode: often}}}",
    "paddock: 1\nfleets: {a: {command: x, ports: 8080}}",
    "paddock: 1\nfleets: {a: {command: x, ports: {http: 70000}}}",
    "paddock: 1\nfleets: {a: {command: x, schedules: [{name: n, cron: hourly, method: m}]}}",
    "paddock: 1\nfleets: {a: {command: x, schedules: [{name: n, method: m}]}}",
    "paddock: 1\ntemplates: {t: {template: u}}",
    "paddock: 1\nflags: yes",
    "paddock: 1\nfleets: {a: {command: x, health: {probes: [{name: p, kind: tcp}]}}}",
    "paddock: 1\nfleets: {a: {command: x, health: {probes: [{name: p, kind: log, match: x, url: y}]}}}",
    "paddock: 1\nfleets: {a: {command: x, health: {probes: [{name: p, kind: task, method: m, expect: {}}]}}}",
    "paddock: 1\npolicies: {p: {ladder: []}}",
    "paddock: 1\npolicies: {p: {ladder: [restrt]}}",
    "paddock: 1\npolicies: {p: {causes: {omm: [escalate]}}}",
    "paddock: 1\npolicies: {p: {objectives: [{name: o, measure: success, share: 1}]}}",
    "paddock: 1\nnotifications: []",
    "paddock: 1\nnotifications: {channels: [{name: c, kind: mail}]}",
    "paddock: 1\nnotifications: {channels: [{name: c, kind: telegram, to: ['1'], token: x}]}",
    "paddock: 1\nnotifications: {cooldown_s: 0}",
    "paddock: 1\nnotifications: {quiet: [{start: '25:00', end: '07:00'}]}",
]


def test_the_committed_schema_is_the_current_one() -> None:
    assert COMMITTED.read_text("utf-8") == json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", (
        "the manifest's schema has changed; write it anew from paddock.model.manifest.schema() and read the difference"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("text", SIMPLE_MISTAKES)
def test_what_the_reader_refuses_the_schema_refuses_too(text: str, refused: Callable[..., str]) -> None:
    assert "farm.yaml, line " in refused(text)
    tree = parse(ManifestSource(name="farm.yaml", text=text), Mistakes())
    assert tree is not None
    assert list(jsonschema.Draft202012Validator(schema()).iter_errors(plain(tree)))


def test_every_field_of_a_spec_can_be_written_except_what_is_derived() -> None:
    assert set(FleetSpec.__struct_fields__) - set(FLEET.fields) == {"name", "version"}
    assert set(FLEET.fields) <= set(FleetSpec.__struct_fields__)


def test_policies_probes_and_notifications_can_be_written_whole() -> None:
    assert set(POLICY.fields) == set(Policy.__struct_fields__) - {"name"}
    assert set(PROBE.record.fields) == set(Probe.__struct_fields__)
    assert set(NOTIFICATIONS.fields) == set(Notifications.__struct_fields__)
    nested = [("scoring", Scoring), ("budget", Budget), ("storm", Storm), ("forecast", Forecasting)]
    for key, struct in nested:
        record = POLICY.fields[key].shape
        assert isinstance(record, Record)
        assert set(record.fields) == set(struct.__struct_fields__)
    for key, struct in [("channels", Channel), ("routes", Route), ("quiet", Quiet)]:
        shape = NOTIFICATIONS.fields[key].shape
        assert isinstance(shape, ListOf)
        item = shape.item.record if isinstance(shape.item, ByKind) else shape.item
        assert isinstance(item, Record)
        assert set(item.fields) == set(struct.__struct_fields__)


@pytest.mark.parametrize(
    ("key", "struct"), [("restart", Restart), ("health", Health), ("limits", Limits), ("logs", Logs)]
)
def test_the_nested_fields_are_those_of_their_structs(key: str, struct: Any) -> None:
    record = FLEET.fields[key].shape
    assert isinstance(record, Record)
    assert set(record.fields) == set(struct.__struct_fields__)


def test_every_property_says_what_it_means() -> None:
    for group in schema()["$defs"].values():
        for name, entry in group["properties"].items():
            assert entry["description"], name

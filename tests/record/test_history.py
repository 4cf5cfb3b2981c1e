"""Incidents, what helped, health over time and what fleets did, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from paddock.model.errors import Refused
from paddock.model.health import HealthPoint
from paddock.model.incident import Incident, IncidentState, Outcome, StepTaken
from paddock.model.kpi import FleetPoint
from paddock.model.policy import Action, Cause
from paddock.ports.record import Batch, Record


def incident(number: int = 1, about: str = "bot/1", **fields: Any) -> Incident:
    usual: dict[str, Any] = {
        "key": f"agent.{about.replace('/', '.')}.{number}",
        "fleet": about.partition("/")[0],
        "cause": Cause.CRASH,
        "signature": "crash|exit 3",
        "title": "it died",
        "sign_at": 100.0,
        "opened_at": 100.0 + number,
    }
    return Incident(id=number, about=about, **usual | fields)


def step(number: int = 1, outcome: Outcome = Outcome.RECOVERED, **fields: Any) -> StepTaken:
    usual: dict[str, Any] = {"action": Action.RESTART, "why": "it died", "started_at": 100.0, "ended_at": 104.0}
    return StepTaken(number=number, outcome=outcome, **usual | fields)


def point(at: float, agent: str = "bot/1", **fields: Any) -> HealthPoint:
    usual: dict[str, Any] = {"span_s": 300.0, "low": 90, "mean": 95.0, "high": 100}
    return HealthPoint(id=agent, at=at, **usual | fields)


def numbers(record: Record, **filters: Any) -> list[int]:
    return [found.id for found in record.incidents(**filters).items]


def test_an_incident_comes_back_as_it_was_said_last(record: Record) -> None:
    record.apply(Batch(incidents=[incident(7)]))
    last = incident(7, state=IncidentState.RECOVERED, recovered_at=105.0, steps=[step()])
    record.apply(Batch(incidents=[last]))

    assert record.incident(7) == last
    assert record.incident(8) is None
    assert record.last_incident() == 7


def test_an_incident_that_is_over_stays_over(record: Record) -> None:
    record.apply(Batch(incidents=[incident(state=IncidentState.RECOVERED)]))
    record.apply(Batch(incidents=[incident(state=IncidentState.ACTING)]))

    found = record.incident(1)
    assert found is not None
    assert found.state is IncidentState.RECOVERED


def test_incidents_are_listed_newest_first_by_what_they_are_about_and_whether_they_are_over(record: Record) -> None:
    abouts = ["bot/1", "bot/2", "bot-x/1", "bot"]
    record.apply(Batch(incidents=[incident(number, about) for number, about in enumerate(abouts, 1)]))
    record.apply(Batch(incidents=[incident(2, "bot/2", state=IncidentState.CLOSED)]))

    assert numbers(record) == [4, 3, 2, 1]
    assert numbers(record, about="bot") == [4, 2, 1]
    assert numbers(record, about="bot/2") == [2]
    assert numbers(record, state="open") == [4, 3, 1]
    assert numbers(record, state="closed") == [2]
    assert numbers(record, since=103.0) == [4, 3]


def test_pages_of_incidents_follow_on_each_other(record: Record) -> None:
    record.apply(Batch(incidents=[incident(number) for number in range(1, 6)]))

    first = record.incidents(limit=2)
    second = record.incidents(limit=2, after=first.next or "")
    third = record.incidents(limit=2, after=second.next or "")

    assert [[found.id for found in page.items] for page in (first, second, third)] == [[5, 4], [3, 2], [1]]
    assert third.next is None
    with pytest.raises(Refused, match="cursor"):
        record.incidents(after="nonsense")


def test_a_damaged_incident_stops_no_list(record: Record) -> None:
    record.apply(Batch(incidents=[incident(1), incident(2)]))
    engine = record._engine  # type: ignore[attr-defined]  # there is no lawful way to damage a row
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET document = 'garbage' WHERE id = 1")

    assert numbers(record) == [2]
    assert record.incident(1) is None


def test_what_helped_is_counted_by_signature_and_action_once_the_incident_has_ended(record: Record) -> None:
    taken = [
        step(1, Outcome.NO_BETTER),
        step(2, Outcome.RECOVERED, action=Action.REDEPLOY),
        step(3, Outcome.SKIPPED, action=Action.REBOOT),
    ]
    record.apply(Batch(incidents=[incident(1, steps=taken)]))
    assert record.tallies(104.0, half_life_s=1000.0) == []

    over = incident(1, steps=taken, state=IncidentState.RECOVERED)
    record.apply(Batch(incidents=[over]))
    record.apply(Batch(incidents=[over]))

    found = {tally.action: tally for tally in record.tallies(104.0, half_life_s=1000.0)}
    assert (found["restart"].helped, found["restart"].failed) == (0.0, 1.0)
    assert (found["redeploy"].helped, found["redeploy"].failed, found["redeploy"].took_s) == (1.0, 0.0, 4.0)
    assert "reboot" not in found
    assert found["restart"].signature == "crash|exit 3"


def test_what_helped_long_ago_weighs_less(record: Record) -> None:
    record.apply(Batch(incidents=[incident(1, steps=[step()], state=IncidentState.RECOVERED)]))

    (tally,) = record.tallies(104.0 + 2000.0, half_life_s=1000.0)

    assert tally.helped == pytest.approx(0.25)
    assert record.tallies(104.0 + 20_000.0, half_life_s=1000.0) == []


def test_health_is_kept_fine_and_then_coarse(record: Record) -> None:
    fine = [point(at, low=int(at / 300), mean=at / 300, high=100) for at in range(0, 7200, 300)]
    record.apply(Batch(health=[*fine, point(0.0, "bot/2")]))
    record.apply(Batch(health=fine))
    assert len(record.health("bot/1", 0.0)) == 24

    assert record.coarsen(3600.0, span_s=3600.0) == 13
    assert record.coarsen(3600.0, span_s=3600.0) == 0

    coarse, *rest = record.health("bot/1", 0.0)
    assert (coarse.at, coarse.span_s, coarse.low, coarse.mean, coarse.high) == (0.0, 3600.0, 0, 5.5, 100)
    assert [held.at for held in rest] == list(range(3600, 7200, 300))
    assert [held.at for held in record.health("bot/1", 4000.0)] == list(range(4200, 7200, 300))


def test_points_of_fleets_come_back_oldest_first(record: Record) -> None:
    points = [FleetPoint(fleet=fleet, at=at, span_s=300.0, done=3) for at in (600.0, 300.0) for fleet in ("a", "b")]
    record.apply(Batch(fleets=points))
    record.apply(Batch(fleets=points))

    assert [(found.fleet, found.at) for found in record.fleet_points(0.0, fleet="a")] == [("a", 300.0), ("a", 600.0)]
    assert len(record.fleet_points(600.0)) == 2


def test_history_is_pruned_by_age_and_open_incidents_stay(record: Record) -> None:
    over = incident(1, steps=[step()], state=IncidentState.RECOVERED)
    record.apply(
        Batch(incidents=[over, incident(2)], health=[point(0.0)], fleets=[FleetPoint(fleet="a", at=0, span_s=1)])
    )

    assert record.prune_history(1000.0, kept_s=2000.0) == 0
    assert record.prune_history(1000.0, kept_s=10.0) == 4

    assert numbers(record) == [2]
    assert record.tallies(104.0, half_life_s=1000.0) == []
    assert record.health("bot/1", 0.0) == []

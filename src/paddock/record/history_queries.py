"""Queries about incidents, steps, health over time and what fleets did, by name."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from paddock.record.queries import INSERTS, Insert
from paddock.record.tables import fleet_points, health, incidents, steps


def put_incident(dialect: str) -> Insert:
    """Record an incident as it is now; one that is over stays so."""
    new = INSERTS[dialect](incidents)
    return new.on_conflict_do_update(
        index_elements=["id"],
        set_={name: new.excluded[name] for name in ("state", "over", "document")},
        where=new.excluded.over >= incidents.c.over,
    )


def put_step(dialect: str) -> Insert:
    """Record once what came of a step."""
    return INSERTS[dialect](steps).on_conflict_do_nothing(index_elements=["incident", "number"])


def put_health(dialect: str) -> Insert:
    """Record a stretch of an agent's health once."""
    return INSERTS[dialect](health).on_conflict_do_nothing(index_elements=["agent", "span_s", "at"])


def put_fleet_point(dialect: str) -> Insert:
    """Record what a fleet did in a stretch once."""
    return INSERTS[dialect](fleet_points).on_conflict_do_nothing(index_elements=["fleet", "at"])


def get_incident(number: int) -> sa.Select[Any]:
    """One incident by its number."""
    return sa.select(incidents.c.document).where(incidents.c.id == number)


def last_incident() -> sa.Select[Any]:
    """The largest number of an incident."""
    return sa.select(sa.func.max(incidents.c.id))


def list_incidents(*, about: str, state: str, since: float, after: int | None, limit: int) -> sa.Select[Any]:
    """Incidents, newest first, that come after one of them. A name without a slash also means what is under it."""
    query = sa.select(incidents.c.id, incidents.c.document)
    if about:
        query = query.where((incidents.c.about if "/" in about else incidents.c.root) == about)
    if state == "open":
        query = query.where(incidents.c.over == 0)
    elif state:
        query = query.where(incidents.c.state == state)
    if since:
        query = query.where(incidents.c.opened_at >= since)
    if after is not None:
        query = query.where(incidents.c.id < after)
    return query.order_by(incidents.c.id.desc()).limit(limit)


def list_steps(since: float) -> sa.Select[Any]:
    """What came of the steps since a time, by what they were taken against."""
    columns = (steps.c.signature, steps.c.cause, steps.c.action, steps.c.helped, steps.c.took_s, steps.c.at)
    return sa.select(*columns).where(steps.c.at >= since).order_by(steps.c.at.desc()).limit(STEPS_MAX)


STEPS_MAX = 50_000
"""Older steps than so many weigh next to nothing."""


def list_health(agent: str, since: float) -> sa.Select[Any]:
    """The history of one agent, oldest first."""
    return sa.select(health).where(health.c.agent == agent, health.c.at >= since).order_by(health.c.at)


def list_fleet_points(since: float, fleet: str) -> sa.Select[Any]:
    """What fleets did since a time, oldest first."""
    query = sa.select(fleet_points.c.document).where(fleet_points.c.at >= since)
    if fleet:
        query = query.where(fleet_points.c.fleet == fleet)
    return query.order_by(fleet_points.c.at)


def oldest_fine(before: float, span_s: float) -> sa.Select[Any]:
    """When the oldest point begins that is finer than `span_s`."""
    return sa.select(sa.func.min(health.c.at)).where(health.c.span_s < span_s, health.c.at < before)


def put_coarse(dialect: str, start: float, span_s: float) -> Insert:
    """Sum the finer points of one stretch up into one for each agent."""
    fine = (
        sa.select(
            health.c.agent,
            sa.literal(span_s),
            sa.literal(start),
            sa.func.min(health.c.low),
            sa.func.sum(health.c.mean * health.c.span_s) / sa.func.sum(health.c.span_s),
            sa.func.max(health.c.high),
        )
        .where(health.c.span_s < span_s, health.c.at >= start, health.c.at < start + span_s)
        .group_by(health.c.agent)
    )
    names = ["agent", "span_s", "at", "low", "mean", "high"]
    return put_health(dialect).from_select(names, fine)


def drop_fine(start: float, span_s: float) -> sa.Delete:
    """Delete the finer points of one stretch."""
    return sa.delete(health).where(health.c.span_s < span_s, health.c.at >= start, health.c.at < start + span_s)


def prune_incidents(before: float, limit: int) -> sa.Delete:
    """Delete the oldest incidents that are over and were opened before a time."""
    old = sa.select(incidents.c.id).where(incidents.c.opened_at < before, incidents.c.over == 1).limit(limit)
    return sa.delete(incidents).where(incidents.c.id.in_(old))


def prune_steps(before: float, limit: int) -> sa.Delete:
    """Delete the steps of incidents from before a time."""
    old = sa.select(steps.c.incident).where(steps.c.at < before).limit(limit)
    return sa.delete(steps).where(steps.c.incident.in_(old), steps.c.at < before)


def prune_health(before: float) -> sa.Delete:
    """Delete the points of health from before a time."""
    return sa.delete(health).where(health.c.at < before)


def prune_fleet_points(before: float) -> sa.Delete:
    """Delete what fleets did before a time."""
    return sa.delete(fleet_points).where(fleet_points.c.at < before)

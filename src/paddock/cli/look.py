"""Commands that only look: get, describe, logs, status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from paddock.app.clock import SystemClock
from paddock.cli import show
from paddock.cli.care import health_columns, incident_columns
from paddock.cli.session import session
from paddock.model.errors import NotFound, Refused

LIMIT = 10_000
"""Items of one listing, unless --limit says otherwise: all of a large installation, and yet an end."""


class Kind(StrEnum):
    AGENTS = "agents"
    FLEETS = "fleets"
    NODES = "nodes"
    TASKS = "tasks"
    EVENTS = "events"
    HEALTH = "health"
    INCIDENTS = "incidents"


class One(StrEnum):
    AGENT = "agent"
    FLEET = "fleet"
    NODE = "node"
    TASK = "task"


def add(app: typer.Typer) -> None:
    app.command()(get)
    app.command()(describe)
    app.command()(logs)
    app.command()(status)


def get(
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(show_default=False)],
    fleet: Annotated[str, typer.Option(help="Only of this fleet.")] = "",
    state: Annotated[str, typer.Option(help="Only in this state; of health, this band.")] = "",
    about: Annotated[str, typer.Option(help="Events about this agent, fleet, node or task.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = LIMIT,
    output: show.Output = show.Form.TABLE,
) -> None:
    """List agents, fleets, nodes, tasks, events, health (the worst first) or incidents."""
    with session(context).api() as api:
        if kind in (Kind.FLEETS, Kind.NODES):
            items = _items(api.get(f"/api/v1/{kind}"))
            items = [item for item in items if kind is Kind.NODES or fleet in ("", item["name"])][:limit]
        elif kind is Kind.HEALTH:
            items = _items(api.get("/api/v1/health", fleet=fleet, band=state, limit=limit))
        elif kind is Kind.INCIDENTS:
            items = list(api.pages("/api/v1/incidents", limit=limit, about=about or fleet, state=state))
        elif kind is Kind.EVENTS:
            items = list(reversed(list(api.pages("/api/v1/history", limit=limit, about=about or fleet))))
        else:
            items = list(api.pages(f"/api/v1/{kind}", limit=limit, fleet=fleet, state=state))
    show.rows(items, COLUMNS[kind](), output, empty=f"no {kind}")


def _items(answer: Any) -> list[Any]:
    """A list, whether it came by itself or as a page."""
    return list(answer["items"] if isinstance(answer, dict) else answer)


def agent_columns() -> dict[str, Any]:
    now = SystemClock().now()
    return {
        "id": lambda a: a["id"],
        "state": lambda a: a["state"],
        "pid": lambda a: a.get("pid"),
        "uptime": lambda a: show.duration(now - a["started_at"]) if a.get("started_at") and a.get("pid") else "-",
        "tasks": lambda a: a.get("tasks_done", 0),
        "errors": lambda a: a.get("tasks_failed", 0),
        "health": lambda a: a.get("health", 0),
        "node": lambda a: a.get("node"),
    }


def fleet_columns() -> dict[str, Any]:
    return {
        "fleet": lambda f: f["name"],
        "wanted": lambda f: f["wanted"],
        "ready": lambda f: f["ready"],
        "states": lambda f: _counts(f.get("states")),
        "queued": lambda f: f.get("queued", 0),
        "runtime": lambda f: f.get("runtime"),
        "methods": lambda f: ", ".join(f.get("methods") or []),
    }


def node_columns() -> dict[str, Any]:
    now = SystemClock().now()
    return {
        "node": lambda n: n["id"],
        "host": lambda n: n.get("host"),
        "pid": lambda n: n.get("pid"),
        "agents": lambda n: n.get("agents", 0),
        "cpus": lambda n: n.get("cpus"),
        "memory": lambda n: show.size(n.get("memory_bytes", 0)),
        "seen": lambda n: f"{show.duration(now - n['seen_at'])} ago" if n.get("seen_at") else "-",
    }


def task_columns() -> dict[str, Any]:
    return {
        "id": lambda t: t["id"],
        "fleet": lambda t: t["fleet"],
        "method": lambda t: t["method"],
        "state": lambda t: t["state"],
        "tries": lambda t: t.get("attempts", 0),
        "agent": lambda t: t.get("agent"),
        "error": lambda t: (t.get("error") or {}).get("message"),
    }


def event_columns() -> dict[str, Any]:
    return {
        f"at ({show.zone()})": lambda e: show.moment(_event(e).get("at")),
        "kind": lambda e: _event(e).get("kind"),
        "about": lambda e: _event(e).get("about"),
        "text": lambda e: _event(e).get("text"),
    }


def _event(item: dict[str, Any]) -> dict[str, Any]:
    """An event is stored with its number around it."""
    inner = item.get("event")
    return inner if isinstance(inner, dict) else item


def _counts(states: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count} {state}" for state, count in (states or {}).items() if count)


COLUMNS = {
    Kind.AGENTS: agent_columns,
    Kind.FLEETS: fleet_columns,
    Kind.NODES: node_columns,
    Kind.TASKS: task_columns,
    Kind.EVENTS: event_columns,
    Kind.HEALTH: health_columns,
    Kind.INCIDENTS: incident_columns,
}


def describe(
    context: typer.Context,
    kind: Annotated[One, typer.Argument(show_default=False)],
    name: Annotated[str, typer.Argument(help="Such as executor/0, executor, a node or a task's id.")],
    output: show.Output = show.Form.TABLE,
) -> None:
    """Show all that is known of one agent, fleet, node or task."""
    from paddock.cli.client import agent_path, path_of

    with session(context).api() as api:
        if kind is One.NODE:
            found = next((node for node in _items(api.get("/api/v1/nodes")) if node["id"] == name), None)
            if found is None:
                raise NotFound(f"there is no node {name!r}: 'paddock get nodes' lists them")
        else:
            found = api.get(agent_path(name) if kind is One.AGENT else path_of(f"{kind}s", name))
    show.facts(found, output)


def logs(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="ID", help="Such as executor/0.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is written, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="The last so many.")] = 50,
) -> None:
    """Print what an agent wrote."""
    from paddock.cli.client import WAIT_S, agent_path

    path = f"{agent_path(agent)}/logs"
    with session(context).api() as api:
        chunk = api.get(path, lines=lines)
        typer.echo(chunk["text"], nl=False)
        try:
            while follow:
                chunk = api.get(path, offset=chunk["offset"], wait_s=WAIT_S)
                typer.echo(chunk["text"], nl=False)
        except KeyboardInterrupt:
            return


def status(context: typer.Context, output: show.Output = show.Form.TABLE) -> None:
    """Totals: agents, tasks, nodes, and whether the parts answer."""
    with session(context).api() as api:
        told = api.get("/status")
    if not isinstance(told, dict):
        raise Refused("the server's /status is not of Paddock: check --url")
    show.facts(told if output is not show.Form.TABLE else _totals(told), output)


def _totals(told: dict[str, Any]) -> dict[str, Any]:
    """The totals, one line for each thing; a field that this version does not know stays as it is."""
    lines = dict(told)
    if "uptime_s" in told:
        lines["up"] = show.duration(lines.pop("uptime_s"))
    for name in ("agents", "queued", "incidents"):
        if isinstance(told.get(name), dict):
            lines[name] = _counts(told[name]) or "none"
    if isinstance(told.get("tasks"), dict):
        by_state: Counter[str] = Counter()
        for states in told["tasks"].values():
            by_state.update(states)
        lines["tasks"] = _counts(by_state) or "none"
    if isinstance(told.get("alerts"), dict):
        lines["alerts"] = "; ".join(f"{name}: {said}" for name, said in told["alerts"].items()) or "no channels"
    if isinstance(told.get("nodes"), list) and not told["nodes"]:
        lines["nodes"] = "none is heard of"
    first = ("version", "up", "nodes", "fleets", "agents", "tasks", "queued", "incidents")
    order = [*(name for name in first if name in lines), *(name for name in lines if name not in first)]
    return {name.replace("_", " "): lines[name] for name in order}

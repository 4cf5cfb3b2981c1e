"""Figures for Prometheus: HTTP counted here, all else computed from control's state when they are asked for.

No label names an agent or a task: the number of series stays bounded by the number of fleets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paddock.control.service import Control, FleetView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
PAGE = 1000
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class HttpMetrics:
    """Counts requests by route, never by path, so that nobody can make series by asking for nonsense."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = PrometheusCounter(
            "paddock_http_requests", "HTTP requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "paddock_http_request_duration_seconds",
            "Time to answer, without live streams; a wait that was asked for counts.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        ProcessCollector(namespace="paddock_server", registry=self.registry)

    def note(self, method: str, route: str, status: int, duration_s: float | None) -> None:
        """One answer; status 0 stands for a caller that left before there was one."""
        method, route = method if method in METHODS else "other", route or "none"
        self._requests.labels(method, route, str(status)).inc()
        if duration_s is not None:
            self._seconds.labels(method, route).observe(duration_s)


class _Computed(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def render(control: Control, http: HttpMetrics) -> bytes:
    """The whole page."""
    status = await control.status()
    families = [*_fleet_metrics(control.fleets()), _task_metric(status), _restarts_metric(control), _nodes(control)]
    registry = CollectorRegistry()
    registry.register(_Computed(families))
    return generate_latest(http.registry) + generate_latest(registry)


def _fleet_metrics(fleets: Sequence[FleetView]) -> list[Metric]:
    wanted = GaugeMetricFamily("paddock_agents_wanted", "Agents that should run.", labels=["fleet"])
    agents = GaugeMetricFamily("paddock_agents", "Agents by state.", labels=["fleet", "state"])
    queued = GaugeMetricFamily("paddock_queue_depth", "Tasks that wait in the fleet's queue.", labels=["fleet"])
    limit = GaugeMetricFamily("paddock_queue_limit", "Tasks that may wait there at the most.", labels=["fleet"])
    for fleet in fleets:
        wanted.add_metric([fleet.name], fleet.wanted)
        queued.add_metric([fleet.name], fleet.queued)
        limit.add_metric([fleet.name], fleet.queue_limit)
        for state, number in sorted(fleet.states.items()):
            agents.add_metric([fleet.name, str(state)], number)
    return [wanted, agents, queued, limit]


def _task_metric(status: Mapping[str, Any]) -> Metric:
    tasks = GaugeMetricFamily("paddock_tasks", "Tasks in the record, by state.", labels=["fleet", "state"])
    for fleet, states in sorted(status.get("tasks", {}).items()):
        for state, number in sorted(states.items()):
            tasks.add_metric([fleet, str(state)], number)
    return tasks


def _restarts_metric(control: Control) -> Metric:
    """A gauge, not a counter: it falls when an agent that was restarted goes away."""
    restarts = GaugeMetricFamily(
        "paddock_agent_restarts", "Restarts so far of the agents that exist now.", labels=["fleet"]
    )
    totals: Counter[str] = Counter()
    after = ""
    while True:
        page = control.agents(after=after, limit=PAGE)
        for agent in page.items:
            totals[agent.fleet] += agent.restarts
        if not page.next:
            break
        after = page.next
    for fleet, number in sorted(totals.items()):
        restarts.add_metric([fleet], number)
    return restarts


def _nodes(control: Control) -> Metric:
    nodes = GaugeMetricFamily("paddock_nodes", "Nodes that are known.")
    nodes.add_metric([], len(control.nodes()))
    return nodes

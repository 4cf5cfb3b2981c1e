"""Advice: only what stands out, with the figures that it goes by."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from paddock.decide.advice import FleetFacts, advise, slower
from paddock.model.kpi import FleetPoint


def worked(share: float, *, agents: int = 10, done: int = 100, **more: Any) -> list[FleetPoint]:
    """An hour in which the agents worked this share of their time."""
    ready_s = agents * 3600.0
    return [FleetPoint(fleet="f", at=0.0, span_s=3600.0, ready_s=ready_s, busy_s=share * ready_s, done=done, **more)]


def fleet(**fields: Any) -> FleetFacts:
    return FleetFacts(**{"name": "f", "agents": 10} | fields)


def test_idle_agents_can_be_fewer_and_busy_ones_need_help() -> None:
    [idle] = advise(fleet(), worked(0.05))
    assert "worked 5.0% of the time; 1 would do (paddock scale f 1)" in idle
    [busy] = advise(fleet(queued=7), worked(0.9))
    assert "worked 90% of the time, 7 tasks wait; 15 would leave room (paddock scale f 15)" in busy


def test_what_does_not_stand_out_is_left_alone() -> None:
    assert advise(fleet(), worked(0.5)) == []
    assert advise(fleet(), worked(0.01, done=3)) == []  # too little to say anything
    assert advise(fleet(owners=True), worked(0.01)) == []  # their number follows from the owners
    assert advise(fleet(agents=1), worked(0.01, agents=1)) == []
    assert advise(fleet(queued=5), worked(0.01)) == []  # somebody waits for them
    assert advise(fleet(), []) == []


def test_memory_limits_are_neither_too_near_nor_too_wide() -> None:
    [near] = advise(fleet(memory_bytes_max=95_000_000, memory_limit_bytes=100_000_000), [])
    assert near == "f: one agent has 95 MB of its limit of 100 MB; raise it"
    [wide] = advise(fleet(memory_bytes_max=10_000_000, memory_limit_bytes=100_000_000), [])
    assert "10 times what its largest agent has (10 MB)" in wide
    for used, limit in ((50, 100), (0, 100), (-1, 100), (50, 0)):
        assert advise(fleet(memory_bytes_max=used * 10**6, memory_limit_bytes=limit * 10**6), []) == []


def test_what_got_slower_or_fails_more_is_told() -> None:
    before = worked(0.5, latency_s=100.0)
    assert slower("f", before, worked(0.5, latency_s=140.0)) == []
    assert slower("f", before, worked(0.5, latency_s=200.0)) == ["f: a task takes 2 s, 2.0 times as long as before"]
    [fails] = slower("f", before, worked(0.5, latency_s=100.0, failed=10))
    assert fails == "f: 90.9% of its tasks are done; before it were 100.0%"
    assert slower("f", worked(0.5, done=2, latency_s=0.1), worked(0.5, latency_s=900.0)) == []
    assert slower("f", [], []) == []


@given(
    st.integers(1, 5000),
    st.integers(0, 100),
    st.floats(0, 1),
    st.integers(-1, 10**12),
    st.integers(0, 10**12),
    st.integers(0, 10**6),
)
def test_advice_never_asks_for_what_there_is(
    agents: int, queued: int, share: float, used: int, limit: int, done: int
) -> None:
    told = advise(
        fleet(agents=agents, queued=queued, memory_bytes_max=used, memory_limit_bytes=limit),
        worked(share, agents=agents, done=done),
    )
    assert len(told) <= 2
    assert not any(f"(paddock scale f {agents})" in line or "scale f 0)" in line for line in told)

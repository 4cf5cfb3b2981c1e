"""What became of the tasks of a storm, by every witness: clients, stream of results, record, effects."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from paddock.fabric import subjects
from paddock.fabric.client import NatsFabric
from paddock.model.task import TaskResult, TaskState
from paddock.testing.wait import soon, until

from .rig import Rig
from .storm import Storm

Outcome = tuple[str, Any, int, str]
"""State, value or error, attempts, agent."""


async def results(fabric: NatsFabric) -> dict[str, TaskResult]:
    """All that the stream holds; AssertionError when a task has two."""
    found: dict[str, TaskResult] = {}
    seq = 0
    while batch := await fabric.read(subjects.RESULTS, after_seq=seq):
        seq = batch[-1].seq
        for stored in batch:
            result = msgspec.json.decode(stored.data, type=TaskResult)
            assert result.id not in found, f"{result.id} has two results"
            found[result.id] = result
    return found


def outcome(result: TaskResult) -> Outcome:
    error = msgspec.to_builtins(result.error) if result.error is not None else None
    value = result.result if result.state is TaskState.DONE else error
    return result.state.value, value, result.attempts, result.agent


def recorded(rig: Rig) -> dict[str, Outcome]:
    """Every row of the record."""
    with sqlite3.connect(f"file:{rig.held.data / 'record.db'}?mode=ro", uri=True) as record:
        rows = record.execute("SELECT id, state, result, error, attempts, agent FROM tasks").fetchall()
    record.close()
    found: dict[str, Outcome] = {}
    for task, state, value, error, attempts, agent in rows:
        text = value if state == "done" else error
        found[task] = (state, msgspec.json.decode(text) if text else None, attempts, agent)
    return found


def effects(rig: Rig, name: str = "effects") -> dict[str, list[tuple[int, int]]]:
    """Line → (epoch, pid) of every run."""
    found: dict[str, list[tuple[int, int]]] = {}
    path = Path(rig.path(name))
    for text in path.read_text().splitlines() if path.exists() else ():
        line, epoch, pid = text.split()
        found.setdefault(line, []).append((int(epoch), int(pid)))
    return found


async def judge(rig: Rig, storm: Storm, fabric: NatsFabric) -> dict[str, str]:
    """Hold all witnesses against each other; what is to be printed. AssertionError where they differ."""
    assert len(storm.told) == storm.tasks
    stream = await results(fabric)
    assert len(stream) == storm.tasks, "each accepted task has one result, and nothing else has"
    by_line = {result.args["line"]: result for result in stream.values()}
    for line, (state, value) in storm.told.items():
        held = by_line[line]
        assert held.state in (TaskState.DONE, TaskState.DEAD), (line, held)
        if held.state is TaskState.DONE:
            assert (state, value) == ("done", held.result), f"{line}: its client was told something else"
        else:
            assert held.error is not None, line
            assert held.error.message, line
            assert (state, value) == (held.error.code, held.error.message), line
    ran = effects(rig)
    for line, held in by_line.items():
        if held.state is TaskState.DONE:
            assert (held.result["epoch"], held.result["pid"]) in ran[line], f"{line} is done by who never ran it"
    expected = {task: outcome(result) for task, result in stream.items()}
    assert await same_record(rig, expected) == storm.tasks
    await _until_empty(fabric)
    return {**figures(storm, by_line, ran), "left in the queue": "0"}


async def _until_empty(fabric: NatsFabric) -> None:
    """What was ended by another, or submitted again after its end, is taken out when it is handed out."""
    left: list[str] = []

    async def empty() -> bool:
        left[:] = await left_over(fabric)
        return not left

    try:
        await soon(empty, what="the queue is empty", limit_s=60, every_s=0.2)
    except AssertionError:
        raise AssertionError(f"left in the queue: {left}") from None


async def left_over(fabric: NatsFabric) -> list[str]:
    """What the queue still holds; each has a result, or it would not be the end."""
    held = await fabric.read(subjects.work_stream("hand"))
    reply = await fabric.request(f"$JS.API.CONSUMER.LIST.{subjects.work_stream('hand')}") if held else None
    return [f"{one.subject} {one.headers}" for one in held] + ([reply.data.decode()] if reply is not None else [])


async def same_record(rig: Rig, expected: dict[str, Outcome]) -> int:
    """Wait until the record says the same of every task; how many rows it has."""

    async def look() -> bool:
        return recorded(rig) == expected

    try:
        await soon(look, what="the record says what the stream says", limit_s=60)
    except AssertionError:
        found = recorded(rig)
        differ = [(task, found.get(task), told) for task, told in expected.items() if found.get(task) != told]
        raise AssertionError(f"{len(differ)} of {len(expected)} tasks differ in the record: {differ[:3]}") from None
    return len(expected)


def figures(storm: Storm, by_line: dict[str, TaskResult], ran: dict[str, list[tuple[int, int]]]) -> dict[str, str]:
    runs = Counter(len(who) for who in ran.values())
    dead = [line for line, held in by_line.items() if held.state is TaskState.DEAD]
    seldom = [line for line in dead if len(ran.get(line, ())) < 3]
    kills = ", ".join(f"{kind} {count}" for kind, count in sorted(storm.rig.kills.items()))
    refused = ", ".join(f"{code} {count:,}" for code, count in sorted(storm.refusals.items()))
    return {
        "accepted and ended, each once": f"{len(by_line):,}",
        "of these done": f"{len(by_line) - len(dead):,}",
        "of these dead, with their reason": f"{len(dead)}",
        "dead that ran less than three times": f"{len(seldom)}",
        "ran once / twice / more often": f"{runs[1]:,} / {runs[2]:,} / {sum(n for k, n in runs.items() if k > 2):,}",
        "killed": kills or "nothing",
        "clients had to ask again": refused or "never",
    }


def rebuild(rig: Rig, count: int) -> None:
    """Delete the record; it must come to say the same again from the streams alone."""
    before = recorded(rig)
    for role in ("keeper", "server"):  # in this order: nobody is there to start the server again
        rig.kill(role)
        until(lambda role=role: not rig.pid(role), what=f"the {role} has ended")
    for path in rig.held.data.glob("record.db*"):
        path.unlink()
    rig.up_again()
    rig.well(count)

    def same() -> bool:
        try:
            return recorded(rig) == before
        except sqlite3.Error:
            return False

    until(same, what="the record made anew says the same of every task", limit_s=60, every_s=0.2)

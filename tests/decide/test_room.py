"""Whether so many agents fit on the nodes."""

from __future__ import annotations

from paddock.decide.room import lack
from paddock.model.agent import NodeStatus


def node(name: str, agents_max: int) -> NodeStatus:
    return NodeStatus(
        id=name,
        host=name,
        pid=1,
        started_at=0.0,
        seen_at=0.0,
        agents_max=agents_max,
        agents_max_why="its limit of 10 open files; raise it",
    )


def test_the_room_of_all_nodes_counts_together() -> None:
    assert lack(150, [node("a", 100), node("b", 50)]) == ""
    assert lack(151, [node("a", 100), node("b", 50)]) == (
        "151 agents in all do not fit: there is room for 150. Node b takes 50, by its limit of 10 open files; raise it "
        "and start the node anew, or add a node"
    )


def test_who_does_not_say_does_not_limit() -> None:
    assert lack(10_000, []) == ""
    assert lack(10_000, [node("a", 100), node("older", 0)]) == ""

"""Every subject, stream and bucket of Paddock, in one place. `docs/protocol.md` says the same for people.

A task's subject carries its id, so that the fabric itself refuses a second copy, a queued task can be cancelled by
its id, and its result can be stored only once.
"""

from __future__ import annotations

from paddock.model.fleet import FleetSpec
from paddock.model.task import Priority, Task
from paddock.ports.fabric import StreamSpec

RESULTS = "RESULTS"
LATER = "LATER"
EVENTS = "EVENTS"
WANTED = "KV_wanted"
NOW = "KV_now"
STATE = "KV_state"
INCIDENTS = "KV_incidents"

DAY_S = 86_400.0

STREAMS = (
    StreamSpec(name=RESULTS, subjects=["result.*.*"], unique_subjects=True, age_s_max=30 * DAY_S),
    StreamSpec(name=LATER, subjects=["later.*.*"], unique_subjects=True),
    StreamSpec(name=EVENTS, subjects=["event.>"], age_s_max=7 * DAY_S),
    StreamSpec(name=WANTED, subjects=["$KV.wanted.>"], last_per_subject=True),
    StreamSpec(name=NOW, subjects=["$KV.now.>"], last_per_subject=True),
    StreamSpec(name=STATE, subjects=["$KV.state.>"], last_per_subject=True),
    StreamSpec(name=INCIDENTS, subjects=["$KV.incidents.>"], last_per_subject=True),
)

LANES = tuple(f"p{int(priority)}" for priority in Priority)


def work_stream(fleet: str) -> str:
    return f"WORK_{fleet}"


def work_stream_spec(spec: FleetSpec) -> StreamSpec:
    """The fleet's work queue: one lane for each priority; lanes of single agents are made when they have work."""
    return StreamSpec(
        name=work_stream(spec.name),
        subjects=[f"work.{spec.name}.>"],
        work_queue=True,
        unique_subjects=True,
        messages_max=spec.queue_limit,
        lanes={lane: f"work.{spec.name}.{lane}.*" for lane in LANES},
        ack_wait_s=spec.ack_wait_s,
    )


def work(task: Task) -> str:
    """Where a task is queued: by fleet and priority, or by agent and priority."""
    if task.agent:
        return f"work.{task.fleet}.a.{task.agent}.p{int(task.priority)}.{task.id}"
    return f"work.{task.fleet}.p{int(task.priority)}.{task.id}"


def work_anywhere(fleet: str, task_id: str) -> tuple[str, str]:
    """The two filters under which a queued task of this id can be found."""
    return f"work.{fleet}.*.{task_id}", f"work.{fleet}.a.*.*.{task_id}"


def agent_lane(name: str, lane: str) -> str:
    """Name of the consumer for tasks addressed to one agent."""
    return f"a-{name}-{lane}"


def agent_lane_filter(fleet: str, name: str, lane: str) -> str:
    return f"work.{fleet}.a.{name}.{lane}.*"


def result(fleet: str, task_id: str) -> str:
    return f"result.{fleet}.{task_id}"


def later(fleet: str, task_id: str) -> str:
    return f"later.{fleet}.{task_id}"


def event(kind: str, about: str) -> str:
    """`event.agent.died.executor.0` for kind `agent.died` about `executor/0`."""
    return f"event.{kind}.{about.replace('/', '.')}"


GROUP_COMMIT = "paddock-group-commit"
"""What a broker calls itself (`server_name` of INFO) whose acknowledgement means written; whether it is on disk is
asked at `sync`."""


def sync(stream: str) -> str:
    """Requests to the syncer; an empty answer means that all which `stream` acknowledged before is on disk."""
    return f"sync.{stream}"


UNSYNCED = "unsynced"
"""Requests to the syncer: which streams could not be put on disk, in words; empty when none."""


def wake(stream: str) -> str:
    """Published after something was stored in `stream`, so that who tails it reads on."""
    return f"wake.{stream}"


def running(fleet: str, task_id: str) -> str:
    """Core note of an agent: this task has been running for a while. JSON {agent, attempt, started_at}."""
    return f"note.running.{fleet}.{task_id}"


def progress(fleet: str, task_id: str) -> str:
    """Core note of an agent: JSON {agent, progress, note}."""
    return f"note.progress.{fleet}.{task_id}"


def vitals(node: str) -> str:
    """Core note of a node: what it measured of its agents lately. JSON list of Vitals."""
    return f"note.vitals.{node}"


def node_op(node: str) -> str:
    """Requests to one node: JSON {op, …}; see `docs/protocol.md`. `all` reaches every node."""
    return f"node.{node}"


def well(who: str) -> str:
    """Where a role stores a word now and then, to see whether the fabric takes writes. (No fleet is called so.)"""
    return f"$KV.state._paddock.{who}"


def alerts_kept() -> str:
    """Where the server keeps who was told of what, and what is not sent yet."""
    return "$KV.state._paddock.alerts"


def topic(name: str) -> str:
    return f"topic.{name}"


def ask(fleet: str, name: str = "") -> str:
    """Direct request to one agent, or to any agent of a fleet (queue group `fleet`)."""
    return f"ask.{fleet}.{name}" if name else f"ask.{fleet}"


def agent_inbox(node: str, fleet: str, name: str, epoch: int | None = None) -> str:
    """Prefix of the reply subjects of an agent, or of one incarnation of it (`PADDOCK_INBOX`)."""
    prefix = f"_INBOX.agent.{node}.{fleet}.{name}"
    return prefix if epoch is None else f"{prefix}.{epoch}"


def agent_pulls(inbox: str) -> str:
    """Reply subjects of the pulls that an incarnation does not wait in. Its node listens too, and gives back what came
    to an agent that died before it could note it. (What it waits in it tells its node: `wait` in docs/protocol.md.)"""
    return f"{inbox}.*.n.*"


def wanted_fleet(fleet: str) -> str:
    """Key in the bucket `wanted`: the FleetSpec."""
    return f"fleet.{fleet}"


def wanted_notifications() -> str:
    """Key in the bucket `wanted`: the Notifications, as a whole."""
    return "notifications"


def wanted_former(fleet: str) -> str:
    """Key in the bucket `wanted`: what a fleet was before its version changed last."""
    return f"former.{fleet}"


def wanted_place(node: str, fleet: str) -> str:
    """Key in the bucket `wanted`: the Placement of one fleet on one node."""
    return f"place.{node}.{fleet}"


def now_agent(node: str, fleet: str, name: str) -> str:
    """Key in the bucket `now`: the AgentStatus."""
    return f"agent.{node}.{fleet}.{name}"


def now_node(node: str) -> str:
    """Key in the bucket `now`: the NodeStatus."""
    return f"node.{node}"

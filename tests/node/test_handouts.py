"""What was handed to an agent that died before it could note it; with a real broker, as only that one shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from paddock.agent.clock import HostClock
from paddock.fabric import subjects
from paddock.fabric.client import NatsFabric
from paddock.model.fleet import FleetSpec
from paddock.node import handouts as module
from paddock.node.handouts import Handouts
from paddock.node.limits import Rlimits
from paddock.node.service import NodeConfig, NodeService
from paddock.ports.fabric import Delivery, Message
from paddock.testing.broker import RealBroker
from paddock.testing.wait import soon

LIMIT_S = 20.0
MILL = FleetSpec(name="mill", runtime="python", ack_wait_s=10 * LIMIT_S)
STREAM = subjects.work_stream("mill")
LANE = "p2"


class Mill:
    """A work queue, a node that listens, and agents of it that a test speaks for."""

    def __init__(self, broker: RealBroker, server: NatsFabric, node: NodeService) -> None:
        self.broker, self.server, self.node = broker, server, node
        self.fabric = broker.connections[-1]
        self.agents: dict[str, NatsFabric] = {}

    def listens(self, spec: FleetSpec = MILL) -> Handouts:
        """To the first incarnation of `mill/0`."""
        return Handouts(self.node._host, spec, "0", 1)

    async def agent(self, name: str) -> NatsFabric:
        if name not in self.agents:
            self.agents[name] = await self.broker.agent("mill", name)
        return self.agents[name]

    async def queue(self, task: str) -> int:
        return await self.server.store(f"work.mill.{LANE}.{task}", b"{}")

    async def pulled(self, name: str = "0") -> Delivery:
        """What this agent is handed next."""
        agent = await self.agent(name)
        found = await soon(lambda: agent.pull(STREAM, LANE), what="something is handed out", limit_s=LIMIT_S)
        return found[0]

    async def waits(self) -> None:
        """Until the fabric has the pull that was asked for: it takes them in on its own time."""

        async def look() -> bool:
            reply = await self.server.request(f"$JS.API.CONSUMER.INFO.{STREAM}.{LANE}")
            return bool(msgspec.json.decode(reply.data)["num_waiting"] == 1)

        await soon(look, what="the pull waits", limit_s=LIMIT_S)

    async def seen(self) -> None:
        """The node has seen all that was handed out so far: its own answers come after it."""
        await self.fabric.flush()

    async def deaf(self) -> bool:
        inbox = subjects.agent_inbox("here", "mill", "0", 1)
        asked = subjects.agent_pulls(inbox).encode()
        return not any(asked in held.line for held in self.fabric.connection._subscriptions.values())


@pytest.fixture
async def mill(tmp_path: Path) -> AsyncIterator[Mill]:
    broker = RealBroker(tmp_path / "fabric")
    await broker.start()
    server = await broker.connect()
    await server.ensure(*subjects.STREAMS, subjects.work_stream_spec(MILL))
    config = NodeConfig(
        id="here", folder=str(tmp_path / "node"), nats_url="", mint=lambda fleet, name: f"{fleet}/{name}"
    )
    fabric = await broker.node("here")
    node = NodeService(config, fabric, {}, HostClock(), limiter=lambda node: Rlimits())
    await node.start()
    yield Mill(broker, server, node)
    await node.stop(agents=True)
    await broker.close()


def message(delivery: Delivery) -> Message:
    """As the node sees it pass."""
    return Message(delivery.subject, delivery.data, delivery.ack, delivery.headers)


async def test_what_was_handed_to_a_dead_agent_and_never_noted_comes_back_uncounted(mill: Mill) -> None:
    handouts = mill.listens()
    handouts.greeted()
    await mill.queue("T1")
    lost = await mill.pulled()
    await mill.seen()
    handouts.bury()
    again = await mill.pulled("1")
    assert again.subject == lost.subject
    assert again.delivered == 1
    handouts.close()


async def test_what_was_noted_is_left_to_its_agent_whichever_of_the_two_was_seen_first(mill: Mill) -> None:
    handouts = mill.listens()
    handouts.greeted()
    seqs = [await mill.queue(task) for task in ("T1", "T2", "T3")]
    first, second, lost = [await mill.pulled() for _ in seqs]
    handouts._subscription.close()  # nothing of the three was seen yet, or all of it: make it sure
    handouts = mill.listens()
    handouts.greeted()
    for delivery in (first, second, lost):
        if delivery is second:
            handouts.noted(second.ack)  # the note was quicker than the fabric
        handouts._seen(message(delivery))
    handouts.noted(first.ack)
    handouts.bury()
    again = await mill.pulled("1")
    assert (again.subject, again.pending) == (lost.subject, 0)
    depth = await mill.server.depth(STREAM)
    assert (depth.messages, depth.last_seq) == (3, seqs[-1] + 1), "one was stored anew, two were not touched"
    handouts.close()


async def test_a_pull_that_a_dead_agent_left_waiting_is_given_back_and_then_dropped(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    handouts = mill.listens()
    handouts.greeted()
    agent = await mill.agent("0")
    # As if it was killed while it waited: nobody but the node listens to the answer.
    inbox = f"{subjects.agent_inbox('here', 'mill', '0', 1)}.x.w.1"
    handouts.waits(inbox)
    await mill.seen()  # the fabric drops a pull to where nobody listens yet
    ask = msgspec.json.encode({"batch": 1, "expires": int(LIMIT_S * 1e9)})
    agent.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{LANE}", ask, reply=inbox)
    await mill.waits()
    handouts.bury()
    seq = await mill.queue("T1")
    again = await mill.pulled("1")
    assert (again.delivered, again.seq) == (1, seq + 1)
    monkeypatch.setattr(module, "BURIAL_S", 0.01)
    handouts.bury()
    await soon(mill.deaf, what="the node listens no more")
    await mill.seen()
    agent.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{LANE}", ask, reply=inbox)
    await agent.flush()
    seq = await mill.queue("T2")
    assert (await mill.pulled("1")).seq == seq, "it went to nobody before"


async def waits(mill: Mill, handouts: Handouts, agent: NatsFabric, inbox: str) -> None:
    """It waits for five at this inbox, and only its node hears what comes."""
    handouts.waits(inbox)
    await mill.seen()  # the fabric drops a pull to where nobody listens yet
    ask = msgspec.json.encode({"batch": 5, "expires": int(LIMIT_S * 1e9)})
    agent.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{LANE}", ask, reply=inbox)
    await mill.waits()


async def test_what_comes_to_a_wait_that_is_over_goes_back_while_its_agent_lives(mill: Mill) -> None:
    handouts = mill.listens()
    handouts.greeted()
    agent = await mill.agent("0")
    inbox = f"{subjects.agent_inbox('here', 'mill', '0', 1)}.x.w.1"
    await waits(mill, handouts, agent, inbox)
    seq = await mill.queue("T1")  # its agent has unsubscribed already; only the node sees this

    async def seen() -> bool:
        return bool(handouts._open)

    await soon(seen, what="the node has seen it", limit_s=LIMIT_S)
    handouts.waits_no_more(inbox)
    again = await mill.pulled("1")
    assert (again.delivered, again.seq) == (1, seq + 1)
    seq = await mill.queue("T2")
    assert (await mill.pulled("1")).seq == seq, "nobody listens there, so it was not served again"
    handouts.close()


async def test_what_an_agent_has_in_hand_at_the_end_of_its_wait_goes_back_only_when_it_dies(mill: Mill) -> None:
    handouts = mill.listens()
    handouts.greeted()
    handouts.noted("$JS.ACK.of.another")
    agent = await mill.agent("0")
    inbox = f"{subjects.agent_inbox('here', 'mill', '0', 1)}.x.w.1"
    await waits(mill, handouts, agent, inbox)
    seq = await mill.queue("T1")

    async def seen() -> bool:
        return bool(handouts._open)

    await soon(seen, what="the node has seen it", limit_s=LIMIT_S)
    [ack] = handouts._open
    handouts.waits_no_more(inbox, [ack])
    assert list(handouts._open) == [ack], "the agent asks who else is at it, and will note it"
    handouts.bury()
    again = await mill.pulled("1")
    assert (again.delivered, again.seq) == (1, seq + 1)
    handouts.close()


@pytest.mark.parametrize("inbox", ["_INBOX.agent.here.mill.1.1.x", "_INBOX.agent.here.mill.0.1.>", "work.mill.>", ""])
async def test_an_agent_cannot_make_its_node_listen_elsewhere(mill: Mill, inbox: str) -> None:
    handouts = mill.listens()
    handouts.waits(inbox)
    await mill.seen()  # the fabric drops a pull to where nobody listens yet
    assert not handouts._waits
    handouts.close()


async def test_nothing_is_taken_from_who_holds_it_now(mill: Mill) -> None:
    """It returned the task itself, without a note; the fabric would believe a word of it that comes now."""
    handouts = mill.listens(msgspec.structs.replace(MILL, runtime="exec"))
    handouts.greeted()
    await mill.queue("T1")
    first = await mill.pulled()
    (await mill.agent("0")).publish(first.ack, b"-NAK")
    now = await mill.pulled("1")
    await mill.seen()
    handouts.bury()
    await mill.seen()
    assert (now.subject, now.seq) == (first.subject, first.seq)
    assert (await mill.server.depth(STREAM)).last_seq == first.seq
    handouts.close()


@pytest.mark.parametrize("doubt", ["never greeted", "greeted again", "line broken", "too long ago"])
async def test_what_may_have_begun_is_left_to_the_ack_time_out(
    mill: Mill, doubt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handouts = mill.listens()
    if doubt != "never greeted":
        handouts.greeted()
    await mill.queue("T1")
    first = await mill.pulled()
    await mill.seen()
    if doubt == "greeted again":
        monkeypatch.setattr(module, "ON_ITS_WAY_S", 0.0)
        handouts.greeted()
    if doubt == "line broken":
        handouts.hung_up()
        monkeypatch.setattr(module, "LAST_GASP_S", -1.0)
    if doubt == "too long ago":
        handouts._sure_s = 0.0
    handouts.bury()
    await mill.queue("T2")
    again = await mill.pulled("1")
    assert again.subject.endswith("T2")
    assert (await mill.server.depth(STREAM)).last_seq == first.seq + 1
    handouts.close()


@pytest.mark.parametrize("named", [True, False])
async def test_what_a_hello_could_not_name_yet_goes_back_uncounted(mill: Mill, named: bool) -> None:
    """It is in the agent's hand, or was on its way to it while the agent spoke."""
    handouts = mill.listens()
    handouts.greeted()
    await mill.queue("T1")
    first = await mill.pulled()
    await mill.seen()
    handouts.hung_up()
    handouts.greeted([first.ack] if named else [])
    handouts.bury()
    again = await mill.pulled("1")
    assert (again.subject, again.delivered, again.seq) == (first.subject, 1, first.seq + 1)
    handouts.close()


async def test_what_an_agent_had_done_while_nobody_listened_is_not_done_again(mill: Mill) -> None:
    """Its hello does not name it any more, and so lately that it could be on its way as well."""
    handouts = mill.listens()
    handouts.greeted()
    await mill.queue("T1")
    first = await mill.pulled()
    await mill.seen()
    handouts.hung_up()
    agent = await mill.agent("0")
    agent.publish(first.ack, b"+ACK")
    await agent.flush()
    handouts.greeted()
    handouts.bury()
    await mill.queue("T2")
    assert (await mill.pulled("1")).subject.endswith("T2")
    assert (await mill.server.depth(STREAM)).last_seq == first.seq + 1
    handouts.close()


async def test_only_so_much_is_remembered(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTED_MAX", 2)
    handouts = mill.listens()
    handouts.greeted()
    for task in ("T1", "T2", "T3"):
        await mill.queue(task)
    for _ in range(3):
        await mill.pulled()
    await mill.seen()
    for number in range(5):
        handouts.noted(f"$JS.ACK.{number}")
    handouts.bury()
    back = [(await mill.pulled("1")).subject[-2:] for _ in range(2)]
    assert sorted(back) == ["T2", "T3"]
    handouts.close()

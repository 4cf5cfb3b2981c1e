"""What the fabric hands to one incarnation, as its node sees it, too.

    handed out ──hold──> noted (the incarnation's own business)
        └── its process ends first ──> put back, not counted as an attempt

A process that dies leaves pulls waiting in the fabric, and messages on their way to it: nobody would note those, and
they would lie until the ack time-out. So the node listens to the replies of the pulls of each of its agents; shortly
after a death it stops listening, and with the last listener gone the fabric drops the dead one's pulls.
"""

from __future__ import annotations

from collections import OrderedDict

from paddock.fabric import subjects
from paddock.fabric.client import delivery_of
from paddock.node.host import Host
from paddock.ports.fabric import Delivery, Message

OPEN_BYTES_MAX = 4_000_000
NOTED_MAX = 256
"""Notes that came before the hand-out itself was seen here are remembered so far back."""
BURIAL_S = 2.0
"""How long after a death hand-outs to it are still waited for."""


class Handouts:
    """Of one incarnation. `noted` for every hold; `bury` once its process has ended."""

    def __init__(self, host: Host, agent: str, epoch: int) -> None:
        self._host, self._key = host, (f"{agent} {epoch}", "bury")
        fleet, _, name = agent.partition("/")
        inbox = subjects.agent_inbox(host.config.id, fleet, name, epoch)
        self._open: OrderedDict[str, Delivery] = OrderedDict()
        self._open_bytes = 0
        self._noted: OrderedDict[str, None] = OrderedDict()
        self._notes = False
        self._dead = False
        self._subscription = host.fabric.subscribe(subjects.agent_pulls(inbox), self._seen)

    def noted(self, ack: str) -> None:
        """It told us of this hand-out; what follows of it is told by holds and drops."""
        self._notes = True
        delivery = self._open.pop(ack, None)
        if delivery is not None:
            self._open_bytes -= len(delivery.data)
            return
        self._noted[ack] = None
        if len(self._noted) > NOTED_MAX:
            self._noted.popitem(last=False)

    def bury(self) -> None:
        """Its process has ended: give back what it never noted, now and for a while."""
        self._dead = True
        for delivery in self._open.values():
            self._give_back(delivery)
        self._open.clear()
        self._host.deadlines.set(self._key, BURIAL_S, lambda late_s: self._subscription.close())

    def _seen(self, message: Message) -> None:
        if not message.reply.startswith("$JS.ACK.") or self._noted.pop(message.reply, 0) is None:
            return
        delivery = delivery_of(message.subject, message.reply, message.headers, message.data)
        if self._dead:
            self._give_back(delivery)
            return
        self._open[message.reply] = delivery
        self._open_bytes += len(delivery.data)
        while self._open_bytes > OPEN_BYTES_MAX or len(self._open) > NOTED_MAX:
            self._open_bytes -= len(self._open.popitem(last=False)[1].data)

    def _give_back(self, delivery: Delivery) -> None:
        if self._notes:
            self._host.owner.start(f"put back {delivery.subject}", self._host.fabric.put_back(delivery))
        else:  # it never notes what it holds, so it may have run this: count it
            self._host.fabric.publish(delivery.ack, b"-NAK")

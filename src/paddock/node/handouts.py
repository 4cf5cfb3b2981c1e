"""What the fabric hands to one incarnation, as its node sees it, too.

    handed out ──hold──> noted (the incarnation's own business)
        ├── its process ends first ──> put back, not counted as an attempt
        └── its line breaks, or too long ago to be sure ──> left to the ack time-out

A process that dies leaves pulls waiting in the fabric, and messages on their way to it: nobody would note those, and
they would lie until the ack time-out. So the node listens to the replies of the pulls of each of its agents, and where
an agent waits for work (it says so: a wait that is over must have no listener, or the fabric would go on serving it);
shortly after a death it stops listening, and with the last listener gone the fabric drops the dead one's pulls.

Only what surely never began is given back: the fabric takes a message away from who holds it now, even when the word
comes from who held it before. So an agent that has never noted anything (a program of another kind than ours, that
does not speak to its node) is given nothing back here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from paddock.fabric import subjects
from paddock.fabric.standing import delivery_of
from paddock.model.fleet import FleetSpec
from paddock.node.host import Host
from paddock.ports.fabric import Message, Subscription

OPEN_BYTES_MAX = 4_000_000
NOTED_MAX = 256
"""Notes that came before the hand-out itself was seen here are remembered so far back."""
WAITS_MAX = 16
NOT_A_SUBJECT = frozenset("*> \t\r\n")
BURIAL_S = 2.0
"""How long after a death hand-outs to it are still waited for."""
SURE = 0.5
"""Share of the ack time-out after which a hand-out that was never noted may be somebody else's already."""
ON_ITS_WAY_S = 0.25
"""A hand-out that was seen here may reach its agent so much later than the agent's hello left it. If the agent had been
done with it instead, it is out of the queue, and cannot be put back."""
LAST_GASP_S = 0.5
"""A line that broke no longer than this before the death was broken by it."""


class Handouts:
    """Of one incarnation. `noted` for every hold; `bury` once its process has ended."""

    def __init__(self, host: Host, spec: FleetSpec, name: str, epoch: int) -> None:
        self._host, self._key = host, (f"{spec.name}/{name} {epoch}", "bury")
        inbox = subjects.agent_inbox(host.config.id, spec.name, name, epoch)
        self._open: OrderedDict[str, tuple[Message, float, str]] = OrderedDict()
        """By ack subject; when it was seen, and in which wait."""
        self._open_bytes = 0
        self._noted: OrderedDict[str, None] = OrderedDict()
        self._sure_s = SURE * spec.ack_wait_s
        self._notes = spec.runtime == "python"
        """It notes what it holds before it starts on it."""
        self._told = False
        """It is, or was until its line broke, on speaking terms."""
        self._broke_at: float | None = None
        self._dead = False
        self._inbox = f"{inbox}."
        self._waits: dict[str, Subscription] = {}
        self._subscription = host.fabric.subscribe(subjects.agent_pulls(inbox), self._seen)

    def greeted(self, has: Collection[str] = ()) -> None:
        """It told of all that it holds; what it was handed before and did not name is over, unless that was so lately
        that it may not have had it yet when it spoke. `has`: ack subjects of what it has in hand but does not hold
        yet. Its waits follow."""
        for subscription in self._waits.values():
            subscription.close()
        self._waits.clear()
        lately = self._host.clock.monotonic() - ON_ITS_WAY_S
        self._open = OrderedDict(
            (ack, (message, at, "")) for ack, (message, at, _) in self._open.items() if ack in has or at > lately
        )
        self._open_bytes = sum(len(message.data) for message, _, _ in self._open.values())
        self._told, self._broke_at = True, None

    def hung_up(self) -> None:
        """Its line broke: from now on it may hold what it cannot note here."""
        self._broke_at = self._host.clock.monotonic()

    def waits(self, inbox: str) -> None:
        """It waits for work at this reply subject."""
        own = inbox.startswith(self._inbox) and not NOT_A_SUBJECT & set(inbox)
        if own and inbox not in self._waits and len(self._waits) < WAITS_MAX:
            self._waits[inbox] = self._host.fabric.subscribe(inbox, lambda message: self._seen(message, inbox))

    def waits_no_more(self, inbox: str, has: Sequence[str] = ()) -> None:
        """It has had everything from there that it will ever have; what only this node saw goes back. `has`: ack
        subjects of what it has in hand but has not noted yet; that goes back only when it dies before it does."""
        subscription = self._waits.pop(inbox, None)
        if subscription is None:
            return
        subscription.close(late=True)
        for ack in has:
            if ack in self._open:
                self._open[ack] = *self._open[ack][:2], ""
            else:
                self.noted(ack)  # its copy is still to come here
        for ack, (handed_out, _, came_by) in list(self._open.items()):
            if came_by == inbox:
                self._open_bytes -= len(self._open.pop(ack)[0].data)
                self._give_back(handed_out)

    def noted(self, ack: str) -> None:
        """It told us of this hand-out; what follows of it is told by holds and drops."""
        self._notes = True
        if ack in self._open:
            self._open_bytes -= len(self._open.pop(ack)[0].data)
            return
        self._noted[ack] = None
        if len(self._noted) > NOTED_MAX:
            self._noted.popitem(last=False)

    def bury(self) -> None:
        """Its process has ended: give back what it never noted, now and for a while."""
        now = self._host.clock.monotonic()
        broken_s = 0.0 if self._broke_at is None else now - self._broke_at
        self._told = self._told and self._notes and broken_s <= LAST_GASP_S
        self._dead = True
        for handed_out, seen_at, _ in self._open.values():
            if now - seen_at < self._sure_s:
                self._give_back(handed_out)
        self._open.clear()
        self._host.deadlines.set(self._key, BURIAL_S, lambda late_s: self.close())

    def close(self) -> None:
        """Listen no more."""
        self._subscription.close()
        for subscription in self._waits.values():
            subscription.close()
        self._waits.clear()

    def _seen(self, message: Message, wait: str = "") -> None:
        if not message.reply.startswith("$JS.ACK."):
            return  # a status of the pull
        if message.reply in self._noted:
            del self._noted[message.reply]
            return
        if self._dead or (wait and wait not in self._waits):
            self._give_back(message)
            return
        self._open[message.reply] = message, self._host.clock.monotonic(), wait
        self._open_bytes += len(message.data)
        while self._open_bytes > OPEN_BYTES_MAX or len(self._open) > NOTED_MAX:
            self._open_bytes -= len(self._open.popitem(last=False)[1][0].data)

    def _give_back(self, handed_out: Message) -> None:
        if self._told:
            delivery = delivery_of(handed_out.subject, handed_out.reply, handed_out.headers, handed_out.data)
            self._host.owner.start(f"put back {delivery.subject}", self._host.fabric.put_back(delivery))

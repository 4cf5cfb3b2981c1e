"""Waiting for work in several lanes at once, and what a message of a lane hands out.

    standing ──message──> handler (credits of that lane go down; `renew` gives more)
        ├──time is up · lane gone · connection lost──> ended
        └──close──> closed; what was on its way is put back

One subscription takes the answers of one pull request a lane. Unsubscribing is what gives up the waits: a request whose
reply subject nobody listens to is dropped by the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from paddock.fabric.connection import Connection
from paddock.fabric.subscription import RawHandler
from paddock.model.errors import NotFound, PaddockError, Unavailable
from paddock.ports.fabric import Delivery

WAIT_S = 1800.0
"""How long one request stands; then the wait begins anew. Not shorter: at each end and each beginning the broker looks
at all that wait in the lane, so that the cost of an idle fleet grows with the square of its agents."""
ATTEMPTS_HEADER = "Paddock-Handed-Out"
"""On a message that was put back: how often it had been handed out before."""


class Standing:
    """See `paddock.ports.fabric.Fabric.stand`."""

    def __init__(
        self,
        connection: Connection,
        late: RawHandler,
        stream: str,
        credits: Mapping[str, int],
        handler: Callable[[Delivery], None],
        ended: Callable[[PaddockError | None], None],
    ) -> None:
        if not connection.connected:
            raise Unavailable("the fabric is away")
        self._connection, self._late, self._stream = connection, late, stream
        self._handler, self._ended = handler, ended
        self.inbox = connection.own_inbox("w")
        self._subscription = connection.subscribe(self.inbox, self._on_message)
        for lane, credit in credits.items():
            self.renew(lane, credit)

    def renew(self, lane: str, credit: int) -> None:
        ask = {"batch": credit, "expires": int(WAIT_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{lane}"
        self._connection.publish(subject, msgspec.json.encode(ask), self.inbox)

    def close(self, done: Callable[[], None] | None = None) -> None:
        self._subscription.close(self._late, done)

    def _on_message(self, subject: str, reply: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
        if not status:
            self._handler(delivery_of(subject, reply, headers, data))
        elif status.startswith("408"):
            self._ended(None)
        elif status.startswith("503"):
            self._ended(NotFound(f"a lane of {self._stream} is not there"))
        elif not status.startswith(("100", "409 Batch Completed")):
            self._ended(Unavailable(f"waiting in {self._stream}: {status}"))


def delivery_of(subject: str, ack: str, headers: Mapping[str, str], data: bytes) -> Delivery:
    """What a message with the reply subject `ack` (`$JS.ACK.…`) hands out."""
    tokens = ack.split(".")
    if len(tokens) > 9:  # with a domain and an account hash: $JS.ACK.<domain>.<account>.<stream>…
        del tokens[2:4]
    before = int(headers.get(ATTEMPTS_HEADER, "0"))
    return Delivery(
        subject, data, ack, tokens[2], tokens[3], int(tokens[4]) + before, int(tokens[5]), int(tokens[8]), headers
    )

"""Channels: how a message reaches people. By `paddock.alerts`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from paddock.model.errors import Refused
from paddock.model.notify import Channel, Message


class PartlyRefused(Refused):
    """Some recipients were refused; the others have the message."""

    code = "partly-refused"


class Sender(Protocol):
    """One way out. Errors never hold secrets."""

    async def send(self, message: Message) -> None:
        """Return once the message was accepted by who brings it further. `Unavailable`: the same message may go through
        later. `Refused`, `Denied`: it would be refused again; what is wrong has to be put right first.
        `PartlyRefused`: as `Refused`, but somebody has it."""
        ...

    async def close(self) -> None: ...


Senders = Callable[[Channel], Sender]
"""Makes the sender of a channel; `Refused` when it cannot be made: its secret is not there."""

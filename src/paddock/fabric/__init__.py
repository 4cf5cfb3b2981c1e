"""The fabric, by NATS: embedded server, connections, identities, subjects, streams, buckets.

Nothing else speaks to NATS. Nothing here knows what a fleet controller, a node or an API does with it.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`connect` on demand: who imports only `fabric.subjects` must not pay for keys and sockets."""
    if name == "connect":
        from paddock.fabric.client import connect

        return connect
    raise AttributeError(name)

"""The parts of the server that others build on, in one hand."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from paddock.control.apply import Apply
from paddock.control.archive import Archive
from paddock.control.changes import Changes
from paddock.control.events import Events
from paddock.control.mirror import Mirror
from paddock.control.nodes import Nodes
from paddock.control.recorder import Recorder
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric


class Core(msgspec.Struct, frozen=True):
    """The parts of the server that care builds on."""

    fabric: Fabric
    clock: Clock
    archive: Archive
    mirror: Mirror
    recorder: Recorder
    nodes: Nodes
    apply: Apply
    events: Events
    changes: Changes
    dice: Callable[[], float]

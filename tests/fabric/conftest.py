from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paddock.fabric import subjects
from paddock.model.fleet import FleetSpec
from paddock.testing.broker import RealBroker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RealBroker]:
    held = RealBroker(tmp_path / "fabric")
    await held.start()
    server = await held.connect()
    await server.ensure(*subjects.STREAMS, subjects.work_stream_spec(FleetSpec(name="mill", runtime="exec")))
    yield held
    await held.close()

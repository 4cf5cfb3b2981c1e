"""One contract, two fabrics: in memory and NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paddock.ports.fabric import Fabric
from paddock.testing.broker import RealBroker
from paddock.testing.fabric import FakeBroker
from paddock.testing.plugin import no_leaked_tasks

pytest.register_assert_rewrite("paddock.testing.fabric_contract")

from paddock.testing.fabric_contract import FabricContract  # noqa: E402 - rewriting must be announced before the import

__all__ = ["TestInMemory", "TestNats", "no_leaked_tasks"]


class InMemory:
    """FakeBroker as the contract wants it."""

    def __init__(self) -> None:
        self._broker = FakeBroker()

    async def connect(self) -> Fabric:
        return self._broker.connect()

    async def agent(self, fleet: str, name: str) -> Fabric:
        return self._broker.agent(fleet, name)

    async def node(self, node: str) -> Fabric:
        return self._broker.node(node)

    async def start(self) -> None:
        self._broker.start()

    async def stop(self) -> None:
        self._broker.stop()


@pytest.mark.usefixtures("no_leaked_tasks")
class TestInMemory(FabricContract):
    @pytest.fixture
    async def under_test(self) -> InMemory:
        return InMemory()


@pytest.mark.usefixtures("no_leaked_tasks")
class TestNats(FabricContract):
    @pytest.fixture
    async def under_test(self, tmp_path: Path) -> AsyncIterator[RealBroker]:
        broker = RealBroker(tmp_path / "fabric")
        await broker.start()
        yield broker
        await broker.close()

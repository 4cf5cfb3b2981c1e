"""The bucket `wanted` was lost: what nodes still run is wanted again, and nothing that was taken back."""

from __future__ import annotations

import asyncio

from paddock.control.mirror import BucketLost
from paddock.fabric import subjects
from paddock.model.fleet import Placement

from .test_fleets import until_placed
from .world import FakeNode, World, world


async def lose_wanted(lab: World) -> None:
    """As a broker does that comes back without its store."""
    lab.broker.delete_stream(subjects.WANTED)
    await asyncio.sleep(1.0)
    await lab.fabric.ensure(*subjects.STREAMS)


def keep(lab: World, node: FakeNode, *names: str) -> None:
    node.keeps["critic"] = Placement(spec=lab.server.fleet("critic").spec, names=list(names))


def test_a_fleet_that_the_bucket_never_heard_of_is_wanted_again_where_it_runs() -> None:
    async def scenario(lab: World) -> None:
        other = FakeNode(lab, "n2")
        keep(lab, other, "0", "1")
        await lab.server.stop()
        await lose_wanted(lab)
        await other.start()
        await lab.serve()

        await lab.until(lambda: [fleet.name for fleet in lab.server.fleets()] == ["critic"], "it is wanted again")
        await until_placed(lab, {"n1": None, "n2": ["0", "1"]})
        [stored] = (await lab.server.history(kind="fleet.restored")).items
        assert stored.event.about == "critic"
        other.kill()

    world(scenario)


def test_a_deleted_fleet_stays_deleted_whatever_a_node_remembers() -> None:
    async def scenario(lab: World) -> None:
        keep(lab, lab.node, "0", "1")
        await lab.server.delete_fleet("critic")
        await lab.replace()
        await lab.until(lambda: {"op": "placements"} in lab.node.asked, "the node was asked")
        await asyncio.sleep(60)

        assert list(lab.server.fleets()) == []

    world(scenario)


def test_a_node_that_comes_late_gives_up_what_others_have_by_now() -> None:
    async def scenario(lab: World) -> None:
        keep(lab, lab.node, "0", "1")
        late = FakeNode(lab, "n2")
        keep(lab, late, "0", "1")
        await lab.server.stop()
        await lose_wanted(lab)
        await lab.serve()
        await until_placed(lab, {"n1": ["0", "1"]})

        await late.start()

        key = f"$KV.wanted.{subjects.wanted_place('n2', 'critic')}"
        while (stored := await lab.fabric.last(subjects.WANTED, key)) is None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        assert stored.deleted
        await until_placed(lab, {"n1": ["0", "1"], "n2": None})
        late.kill()

    world(scenario)


def test_a_server_whose_buckets_were_made_anew_ends_so_that_the_next_one_starts_from_what_is() -> None:
    async def scenario(lab: World) -> None:
        await lose_wanted(lab)

        assert isinstance(await lab.server.failed(), BucketLost)

    world(scenario)

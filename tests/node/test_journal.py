from __future__ import annotations

import asyncio
import zlib
from pathlib import Path

import pytest

from paddock.model.errors import DataDirError, Unavailable
from paddock.model.fleet import FleetSpec, Placement
from paddock.node import journal as module
from paddock.node.journal import (
    Dropped,
    Forgotten,
    Held,
    Hold,
    Journal,
    Placed,
    Row,
    RowGone,
    RowSet,
    Table,
    Unplaced,
    line,
    read,
)
from paddock.ports.runtime import Handle

HANDLE = Handle(runtime="exec", pid=7, start_ticks=9, epoch=5)


async def test_what_was_put_is_on_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    await journal.put(RowSet("a/0", Row(epoch=5, intent=True)))
    assert read(tmp_path / "journal")[0].rows == {"a/0": Row(epoch=5, intent=True)}
    await journal.close()


async def test_many_puts_at_once_all_arrive(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    await asyncio.gather(*(journal.put(RowSet(f"a/{n}", Row(epoch=n))) for n in range(500)))
    await journal.close()
    assert len(read(tmp_path / "journal")[0].rows) == 500


async def test_everything_comes_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    placement = Placement(spec=FleetSpec(name="a", runtime="exec", command=["x"]), names=["0"])
    journal.note(Placed(placement))
    journal.note(RowSet("a/0", Row(epoch=5, handle=HANDLE)))
    journal.note(Held("a/0", "T1", Hold("$JS.ACK.1", 1.0)))
    journal.note(Held("a/0", "T2", Hold("$JS.ACK.2", 2.0)))
    journal.note(Dropped("a/0", "T1"))
    journal.note(RowSet("a/1", Row(epoch=6)))
    journal.note(RowGone("a/1"))
    journal.note(Placed(Placement(spec=FleetSpec(name="b", runtime="exec"), names=[])))
    journal.note(Unplaced("b"))
    await journal.close()
    again = Journal(tmp_path / "journal")
    assert again.table.rows == {"a/0": Row(epoch=5, handle=HANDLE)}
    assert again.table.placements == {"a": placement}
    assert again.table.holds == {"a/0": {"T2": Hold("$JS.ACK.2", 2.0)}}
    assert again.table.epoch == 6
    await again.close()


async def test_that_an_agent_is_gone_is_remembered_until_it_was_told_or_it_is_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for name in ("a/0", "a/1", "a/2"):
        journal.note(RowSet(name, Row(epoch=5)))
        journal.note(RowGone(name))
    journal.note(Forgotten("a/0"))
    journal.note(RowSet("a/1", Row(epoch=6)))
    await journal.close()
    assert list(read(tmp_path / "journal")[0].gone) == ["a/2"]
    again = Journal(tmp_path / "journal")  # a snapshot now
    await again.close()
    assert list(read(tmp_path / "journal")[0].gone) == ["a/2"]


async def test_the_holds_of_an_incarnation_end_with_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.note(RowSet("a/0", Row(epoch=5, intent=True)))
    journal.note(Held("a/0", "T1", Hold("$JS.ACK.1", 1.0)))
    journal.note(RowSet("a/0", Row(epoch=5, handle=HANDLE)))
    assert "T1" in journal.table.holds["a/0"]
    journal.note(RowSet("a/0", Row(epoch=6, intent=True)))
    assert journal.table.holds == {}
    await journal.close()


@pytest.mark.parametrize("cut", range(1, 50, 7))
async def test_a_half_written_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    path.write_bytes(line(RowSet("a/0", Row(epoch=5))) + line(RowSet("a/1", Row(epoch=6)))[:-cut])
    table, bad = read(path)
    assert (list(table.rows), bad) == (["a/0"] if cut > 1 else ["a/0", "a/1"], int(cut > 1))
    journal = Journal(path)
    await journal.put(RowSet("a/2", Row(epoch=7)))
    await journal.close()
    assert "a/2" in read(path)[0].rows
    assert read(path)[1] == 0


async def test_a_spoilt_line_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    spoilt = line(RowSet("a/1", Row(epoch=6))).replace(b"a/1", b"a/9")
    path.write_bytes(line(RowSet("a/0", Row(epoch=5))) + spoilt + b"\x00\xff\n" + line(RowSet("a/2", Row(epoch=7))))
    table, bad = read(path)
    assert (list(table.rows), bad) == (["a/0", "a/2"], 2)


async def test_it_is_compacted_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MIN", 50)
    journal = Journal(tmp_path / "journal")
    for number in range(2000):
        await journal.put(RowSet("a/0", Row(epoch=number)))
    await journal.close()
    assert read(tmp_path / "journal")[0].rows["a/0"].epoch == 1999
    assert (tmp_path / "journal").read_bytes().count(b"\n") < 200


async def test_epochs_only_grow_whatever_the_clock_says(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    epochs = [journal.next_epoch(now) for now in (100.0, 100.0, 50.0, 200.0, 0.0)]
    assert epochs == sorted(set(epochs))
    await journal.put(RowSet("a/0", Row(epoch=epochs[-1])))
    await journal.put(RowGone("a/0"))
    await journal.close()
    again = Journal(tmp_path / "journal")
    assert again.next_epoch(0.0) > epochs[-1]
    await again.close()


async def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(line(Table(format=99)))
    with pytest.raises(DataDirError, match="format 99"):
        Journal(tmp_path / "journal")


async def test_a_journal_that_is_none_is_refused(tmp_path: Path) -> None:
    data = b'{"op":"Nonsense"}'
    (tmp_path / "journal").write_bytes(b"%08x %s\n" % (zlib.crc32(data), data))
    with pytest.raises(DataDirError, match="another version"):
        Journal(tmp_path / "journal")


async def test_a_second_node_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(DataDirError, match="in use by another node"):
        Journal(tmp_path / "journal")
    await journal.close()


async def test_a_full_disk_refuses_the_intent_and_heals(tmp_path: Path) -> None:
    """A put that cannot be written must not pass for durable; what it said comes with the next that can."""
    journal = Journal(tmp_path / "journal")
    file, full = journal._file, open("/dev/full", "ab")  # noqa: SIM115, ASYNC230 - its end is below
    journal._file = full.fileno()
    with pytest.raises(Unavailable, match="cannot be written"):
        await journal.put(RowSet("a/0", Row(epoch=5)))
    journal._file = file
    full.close()
    await journal.put(RowSet("a/1", Row(epoch=6)))
    await journal.close()
    assert set(read(tmp_path / "journal")[0].rows) == {"a/0", "a/1"}

"""Old blocks of a stream, kept until what took their place is on disk.

    linked ──its name goes, or is another file's──> superseded ──all that was there by then is synced──> dropped
       └────────────────────── the power is cut ────┴──> put back, before the broker starts

The broker removes a block as soon as nothing in it counts any more. What made it so (a key's new value, a task that was
put back) may lie in a newer block that is not on disk yet: a power cut would take both. So the syncer holds a hard link
to each block, in a folder beside theirs, and drops it only when the newer ones are synced. See docs/adr/0022.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from paddock.fabric.boot import boot_id
from paddock.fabric.files import sync_folder

FOLDER = "kept"
"""Within the folder of a stream."""
BLOCKS = "msgs"
STARTED = "nats.boot"
"""In the broker's folder: in which start of the host the broker was started last."""


class Kept:
    """The links to the blocks of one stream."""

    def __init__(self, stream: Path) -> None:
        self._folder, self._blocks = stream / FOLDER, stream / BLOCKS
        self._links: dict[int, int] = {}
        """Number of a block → inode."""
        self._unsynced = True
        """Names in our folder, and its own name, may not be on disk."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            self._links = {
                int(entry.name.removesuffix(".blk")): entry.inode() for entry in entries if entry.name.endswith(".blk")
            }

    def superseded(self, blocks: Mapping[int, int]) -> bool:
        """Whether a link is to a file that is none of these `blocks` (number → inode) any more."""
        return bool(self._links.items() - blocks.items())

    def are(self, blocks: Mapping[int, int]) -> bool:
        """Whether there are links to all of `blocks`, and to nothing else, on disk."""
        return self._links == blocks and not self._unsynced

    def follow(self, before: Mapping[int, int], blocks: Mapping[int, int]) -> None:
        """Have links to all of `blocks`, and to none that was gone already `before`: all that was written by then is
        synced. On disk on return. FileNotFoundError when a block or the stream goes meanwhile."""
        if self.are(blocks):
            return
        self._unsynced = True
        self._folder.mkdir(mode=0o750, exist_ok=True)
        for number, inode in blocks.items():
            if number not in self._links:
                with contextlib.suppress(FileExistsError):  # made in the last moments of the broker before
                    os.link(self._block(number), self._link(number))
            elif self._links[number] != inode == before.get(number):
                self._relink(number)
            else:
                continue
            self._links[number] = os.stat(self._link(number)).st_ino
        for number in self._links.keys() - blocks.keys() - before.keys():
            self._link(number).unlink(missing_ok=True)
            del self._links[number]
        sync_folder(self._folder)
        sync_folder(self._folder.parent)
        self._unsynced = False

    def _relink(self, number: int) -> None:
        draft = self._folder / f"{number}.draft"
        draft.unlink(missing_ok=True)
        os.link(self._block(number), draft)
        draft.replace(self._link(number))

    def _link(self, number: int) -> Path:
        return self._folder / f"{number}.blk"

    def _block(self, number: int) -> Path:
        return self._blocks / f"{number}.blk"


def settle(broker: Path, streams: Path, *, keep: bool) -> None:
    """Before the broker of this folder starts: when the power was cut since it started last, put back what is kept.
    Then all blocks are synced, and the links are to them, or with `keep` false there are none."""
    started = broker / STARTED
    here = boot_id()
    cut = not started.exists() or started.read_bytes() != here.encode()
    for stream in streams.glob("*"):
        kept, blocks = stream / FOLDER, stream / BLOCKS
        if cut and blocks.exists():
            _put_back(kept, blocks)
        if keep and blocks.exists():
            found = {int(block.stem): _synced(block) for block in blocks.glob("*.blk") if block.stem.isdecimal()}
            sync_folder(blocks)
            Kept(stream).follow(found, found)
        elif kept.exists():
            shutil.rmtree(kept, ignore_errors=True)  # a syncer may be at work there, and will look after it
            sync_folder(stream)
    started.write_text(here)


def _synced(block: Path) -> int:
    """Put it on disk; its inode."""
    with block.open("rb") as file:
        os.fdatasync(file.fileno())
        return os.fstat(file.fileno()).st_ino


def _put_back(kept: Path, blocks: Path) -> None:
    """Also forget what the broker noted about blocks and hand-outs, for it was noted without these. It reads the
    blocks again, and hands out what lies in them."""
    lacking = [link for link in kept.glob("*.blk") if not _same(link, blocks / link.name)]
    if not lacking:
        return
    (blocks / "index.db").unlink(missing_ok=True)
    for lane in blocks.parent.glob("obs/*/o.dat"):
        lane.unlink()
        sync_folder(lane.parent)
    for link in lacking:
        draft = blocks / f"{link.name}.kept"
        draft.unlink(missing_ok=True)
        os.link(link, draft)
        draft.replace(blocks / link.name)


def _same(link: Path, block: Path) -> bool:
    return block.exists() and block.samefile(link)

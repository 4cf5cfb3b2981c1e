"""Old blocks of a stream, kept until what took their place is on disk.

    linked ──its name goes, or is another file's──> superseded ──all that was there by then is synced──> dropped
       └────────────────────── the power is cut ────┴──> put back, before the broker starts

The broker removes a block as soon as nothing in it counts any more. What made it so (a key's new value, a task that was
put back) may lie in a newer block that is not on disk yet: a power cut would take both. So the syncer holds a hard link
to each block, in a folder beside theirs, and drops it only when the newer ones are synced. See docs/adr/0022.

A sync that failed leaves a mark in the stream's folder: the kernel tells of it once, and shows what it could not write
as if it were on disk (fsync(2); on ext4 the pages stay, clean). Nothing of a marked stream is said to be on disk, by
no syncer, until a start of the broker has written its files anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import structlog

from paddock.fabric.boot import boot_id
from paddock.fabric.files import sync_folder

log = structlog.get_logger(__name__)

FOLDER = "kept"
"""Within the folder of a stream."""
BLOCKS = "msgs"
MARK = "unsynced"
"""In the folder of a stream: a sync of it failed, and why. It is for as long as the host runs, so it is not synced."""
DRAFT = "anew"
"""In the folder of a stream: the file that is being written anew. (In `msgs` the broker might take it for a block.)"""
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
                int(number): entry.inode()
                for entry in entries
                if entry.name.endswith(".blk") and (number := entry.name.removesuffix(".blk")).isdecimal()
            }

    def superseded(self, blocks: Mapping[int, int]) -> bool:
        """Whether a link is to a file that is none of these `blocks` (number → inode) any more."""
        return bool(self._links.items() - blocks.items())

    def are(self, blocks: Mapping[int, int]) -> bool:
        """Whether there are links to all of `blocks`, and to nothing else, on disk."""
        return self._links == blocks and not self._unsynced

    def follow(self, before: Mapping[int, int], blocks: Mapping[int, int]) -> None:
        """Have links to all of `blocks`, and to none that was gone already `before`: all that was written by then is
        synced. On disk on return. FileNotFoundError when a block or the stream goes meanwhile.

        New links come first, for what makes an old one needless may lie in a block that goes next. Old ones go in the
        order of their blocks, up to the first that must stay: that what it holds was removed is noted in later blocks.
        (A link that stays to what was written anew after the look is to a block that lost nothing else by it: the
        broker never writes the block anew that it appends to, see `compact` in its filestore.go.)"""
        if self.are(blocks):
            return
        self._unsynced = True
        self._folder.mkdir(mode=0o750, exist_ok=True)
        for number in blocks.keys() - self._links.keys():
            with contextlib.suppress(FileExistsError):  # made in the last moments of the broker before
                os.link(self._block(number), self._link(number))
            self._note(number)
        for number in sorted(self._links):
            if self._links[number] == blocks.get(number):
                continue
            if before.get(number) != blocks.get(number):
                break
            if number in blocks:
                self._relink(number)
                self._note(number)
            else:
                self._link(number).unlink(missing_ok=True)
                del self._links[number]
        sync_folder(self._folder)
        sync_folder(self._folder.parent)
        self._unsynced = False

    def _note(self, number: int) -> None:
        self._links[number] = os.stat(self._link(number)).st_ino

    def _relink(self, number: int) -> None:
        draft = self._folder / f"{number}.draft"
        draft.unlink(missing_ok=True)
        os.link(self._block(number), draft)
        draft.replace(self._link(number))

    def _link(self, number: int) -> Path:
        return self._folder / f"{number}.blk"

    def _block(self, number: int) -> Path:
        return self._blocks / f"{number}.blk"


def mark(stream: Path, why: str) -> bool:
    """Note that a sync of it failed. Whether it could be noted."""
    with contextlib.suppress(OSError):
        (stream / MARK).write_text(why)  # without room for the text there may be some for the name
    return os.path.exists(stream / MARK)


def marked(stream: Path) -> str:
    """Why a sync of it failed; empty when none did."""
    try:
        return (stream / MARK).read_text(errors="replace") or "a sync failed"
    except FileNotFoundError:
        return ""


def settle(broker: Path, streams: Path, *, keep: bool) -> None:
    """Before the broker of this folder starts: when the power was cut since it started last, put back what is kept.
    Then all blocks are synced, and the links are to them, or with `keep` false there are none. A stream of which a sync
    failed is written anew, with what is still in memory or else with what is on disk: the broker finds there what is
    there after a power cut, too."""
    started = broker / STARTED
    here = boot_id()
    cut = not started.exists() or started.read_bytes() != here.encode()
    for stream in streams.glob("*"):
        kept, blocks = stream / FOLDER, stream / BLOCKS
        failed = marked(stream)
        if (cut or failed) and blocks.exists():
            _put_back(kept, blocks)
        if failed:
            log.warning("a sync of a stream failed: its files are written anew", stream=stream.name, error=failed)
            _write_anew(stream)
        if keep and blocks.exists():
            found = {int(block.stem): _synced(block) for block in blocks.glob("*.blk") if block.stem.isdecimal()}
            sync_folder(blocks)
            for draft in kept.glob("*.draft"):
                draft.unlink(missing_ok=True)
            Kept(stream).follow(found, found)
        elif kept.exists():
            shutil.rmtree(kept, ignore_errors=True)  # a syncer may be at work there, and will look after it
            sync_folder(stream)
        (stream / MARK).unlink(missing_ok=True)
    started.write_text(here)


def _write_anew(stream: Path) -> None:
    """All its files but the links; on disk on return."""
    draft = stream / DRAFT
    for place, folders, names in os.walk(stream):
        folders[:] = [folder for folder in folders if folder != FOLDER]
        for name in names:
            file = Path(place, name)
            if file in (draft, stream / MARK):
                continue
            with file.open("rb") as source, draft.open("wb") as copy:  # one that wrote hears of every failed write
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            shutil.copymode(file, draft)
            draft.replace(file)
        sync_folder(Path(place))
    draft.unlink(missing_ok=True)


def _synced(block: Path) -> int:
    """Put it on disk; its inode."""
    with block.open("rb") as file:
        try:
            os.fdatasync(file.fileno())
        except OSError as error:
            mark(block.parents[1], error.strerror or str(error))  # the next try would only seem to work
            raise
        return os.fstat(file.fileno()).st_ino


def _put_back(kept: Path, blocks: Path) -> None:
    """Also forget what the broker noted about blocks and hand-outs, for it was noted without these. It reads the
    blocks again, and hands out what lies in them. On disk on return."""
    lacking = [link for link in kept.glob("*.blk") if not _same(link, blocks / link.name)]
    if not lacking:
        return
    (blocks / "index.db").unlink(missing_ok=True)
    sync_folder(blocks)  # a cut between would else leave the index beside blocks that it does not know
    for lane in blocks.parent.glob("obs/*/o.dat"):
        lane.unlink()
        sync_folder(lane.parent)
    for link in lacking:
        draft = blocks / f"{link.name}.kept"
        draft.unlink(missing_ok=True)
        os.link(link, draft)
        draft.replace(blocks / link.name)
    sync_folder(blocks)


def _same(link: Path, block: Path) -> bool:
    return block.exists() and block.samefile(link)

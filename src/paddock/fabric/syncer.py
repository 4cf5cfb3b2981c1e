"""Group commit: one sync of a stream's files for all who asked before it began.

    asked ──nobody syncs this stream──> syncing ──done──> all who asked by its start are answered
      └── a sync is under way: waits for the next one, which begins when that one ends

The broker writes a message into its file before it acknowledges it; whether the file is on disk is asked here. That
lets one sync do for hundreds of messages, where the broker by itself makes one for each, and another for its removal.
See docs/adr/0022.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from paddock.fabric import subjects
from paddock.fabric.files import sync_folder
from paddock.fabric.groups import ALL
from paddock.fabric.kept import BLOCKS, FOLDER, Kept, mark, marked
from paddock.ports.fabric import Fabric, Message

log = structlog.get_logger(__name__)

THREADS = 8
"""So many streams are synced at the same time."""
FRESH_S = 0.1
"""A folder that changed so lately may have changed once more in the same tick of the kernel's clock (at most 10 ms)."""
FRESH_WHOLE_S = 1.1
"""The same where times are whole seconds (ext4 with inodes of 128 bytes)."""
LOOK_S = 1.0
"""How often streams are looked at that nobody asks about."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""No sync says so, only what comes before it."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_BLOCK = re.compile(r"(\d+)\.blk")


class Syncer:
    """Answers at `sync.<stream>`: with nothing when it is on disk, else with the reason why not."""

    def __init__(self, fabric: Fabric, streams: Path) -> None:
        """`streams`: the folder that holds a folder for each stream."""
        self._fabric, self._streams = fabric, streams
        self._files: dict[str, StreamFiles] = {}
        self._waiting: dict[str, list[Message]] = {}
        self._syncing: set[str] = set()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sync")
        together = threading.Barrier(THREADS)
        for _ in range(THREADS):  # none need be started when there may be no room for one
            self._threads.submit(together.wait, 5.0)
        self._loop = asyncio.get_running_loop()
        self._looking = self._loop.call_later(LOOK_S, self._look)
        self._begin_anew()
        self._asked = [
            fabric.subscribe(subjects.sync("*"), self._on_question),
            fabric.subscribe(subjects.UNSYNCED, self._on_inquiry),
        ]
        fabric.on_reconnect(self._begin_anew)

    def close(self) -> None:
        self._looking.cancel()
        for asked in self._asked:
            asked.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin_anew(self) -> None:
        """Another broker may run now: what the one before wrote and nobody synced lies in any of the files. What could
        not be synced has a mark that outlives us, or else is still to get one."""
        self._files = {stream: files for stream, files in self._files.items() if files.failed and not files.marked}
        for kept in self._streams.glob(f"*/{FOLDER}"):
            self._sync_soon(kept.parent.name)

    def _look(self) -> None:
        """The broker removes blocks also where nobody stores anything; what of them is kept is then to be dropped."""
        self._looking = self._loop.call_later(LOOK_S, self._look)
        for stream in [stream for stream, files in self._files.items() if files.changed and not files.failed]:
            self._sync_soon(stream)

    def _on_question(self, question: Message) -> None:
        stream = question.subject.partition(".")[2]
        if not _NAME.fullmatch(stream):
            self._fabric.publish(question.reply, b"there is no such stream")
            return
        self._waiting.setdefault(stream, []).append(question)
        self._sync_soon(stream)

    def _sync_soon(self, stream: str) -> None:
        if stream not in self._syncing:
            self._syncing.add(stream)
            self._loop.call_soon(self._begin, stream)  # what comes in one read is answered together

    def _on_inquiry(self, question: Message) -> None:
        failed = sorted((stream, files.failed) for stream, files in self._files.items() if files.failed)
        answer = "; ".join(f"{stream} cannot be put on disk: {why}" for stream, why in failed)
        self._fabric.publish(question.reply, answer.encode())

    def _begin(self, stream: str) -> None:
        if self._looking.cancelled():
            return  # it was closed
        group = self._waiting.pop(stream, [])
        files = self._files.get(stream)
        if files is None:
            files = self._files[stream] = StreamFiles(self._streams / stream)
        deep = any(question.data == ALL for question in group)
        done = self._loop.run_in_executor(self._threads, _sync, files, stream, deep)
        done.add_done_callback(lambda done: self._end(stream, files, group, done))

    def _end(self, stream: str, files: StreamFiles, group: list[Message], done: asyncio.Future[str]) -> None:
        if done.cancelled():
            return
        answer = done.result()
        if answer and (group or files.failed):
            log.error("a stream cannot be synced", stream=stream, error=answer)
        if files.gone:
            self._files.pop(stream, None)
        for question in group:
            self._fabric.publish(question.reply, answer.encode())
        begun_anew = not files.gone and self._files.get(stream) is not files
        if self._waiting.get(stream) or begun_anew:
            self._begin(stream)
        else:
            self._syncing.discard(stream)


def _sync(files: StreamFiles, stream: str, deep: bool) -> str:
    """Why it is not on disk, or empty."""
    try:
        files.sync(deep=deep)
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # who asks must be answered
        log.exception("a stream could not be synced", stream=stream)
        return repr(error)
    return ""


class _Unkept(OSError):
    """There is no space for a link to a block."""


class StreamFiles:
    """The files of one stream, and what of them is on disk. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._blocks = folder, folder / BLOCKS
        self._kept: Kept | None = None
        """None: nothing was looked at yet."""
        self._known: dict[int, tuple[int, ...]] = {}
        """Number of a block → inode, ctime and size of what was synced under that name. (An inode alone comes again: a
        block that is written anew twice may have its old one.)"""
        self._inodes: dict[int, int] = {}
        """The same without the rest."""
        self._kept_for: dict[int, int] | None = None
        """Those to which there are links, and to no others."""
        self._looked = 0
        """When the folder of the blocks had last changed as we listed it, by its mtime; 0: list it again."""
        self._newest = -1
        """Descriptor of the block that is written to."""
        self._synced = -1
        """Its size when it was synced last."""
        self.failed = ""
        """Why nothing of it will be on disk until the broker starts anew."""
        self.marked = False
        """Who comes after us finds that it failed, too."""
        self.gone = False

    @property
    def changed(self) -> bool:
        """Whether blocks came or went since they were listed."""
        try:
            return os.stat(self._blocks).st_mtime_ns != self._looked
        except FileNotFoundError:
            return True

    def __del__(self) -> None:
        self._close()

    def sync(self, *, deep: bool = False) -> None:
        """Put on disk what was written by now. OSError when that fails: then also later, for what the kernel could not
        write it forgets (fsync(2), "EIO"), and a second try would claim success."""
        if self._kept is None:
            self.failed = marked(self._folder)
            self.marked = bool(self.failed)
            self._kept = Kept(self._folder)
        if self.failed:
            self.marked = self.marked or mark(self._folder, self.failed)
            raise OSError(errno.EIO, self.failed)
        try:
            if deep:
                self._sync_everything()
            while True:
                try:
                    self._sync_blocks_and_keep(self._kept)
                    return
                except _Unkept:
                    raise
                except FileNotFoundError:  # a block went meanwhile, with all in it acknowledged, or the stream did
                    self._looked = 0
                    self.gone = not self._blocks.exists()
                    if self.gone:
                        break
            if not deep:
                raise FileNotFoundError(errno.ENOENT, "there is no such stream")
        except (FileNotFoundError, _Unkept):
            raise
        except OSError as error:
            if error.errno not in NO_DESCRIPTOR:
                self.failed = error.strerror or str(error)
                self.marked = mark(self._folder, self.failed)
            raise

    def _sync_blocks_and_keep(self, kept: Kept) -> None:
        self._sync_blocks()
        before = blocks = self._inodes
        if self._kept_for is blocks:
            return
        if kept.superseded(before):
            # What took its place may have come into a block that was not there yet when the folder was listed.
            self._looked = 0
            self._sync_blocks()
            blocks = self._inodes
        try:
            kept.follow(before, blocks)
        except OSError as error:
            if error.errno in NO_SPACE:  # for a name: it may work the next time
                raise _Unkept(error.errno, error.strerror) from error
            raise
        self._kept_for = blocks if kept.are(blocks) else None

    def _sync_blocks(self) -> None:
        changed = os.stat(self._blocks).st_mtime_ns
        if changed != self._looked:
            self._list_blocks()
            fresh_s = FRESH_S if changed % 1_000_000_000 else FRESH_WHOLE_S
            self._looked = changed if time.time_ns() - changed > fresh_s * 1e9 else 0
        if self._newest >= 0 and (size := os.fstat(self._newest).st_size) != self._synced:
            os.fdatasync(self._newest)
            self._synced = size

    def _list_blocks(self) -> None:
        """Sync all that is new in the folder; the block with the highest number is the one that is written to.
        FileNotFoundError when one goes meanwhile."""
        found: dict[int, tuple[int, ...]] = {}
        with os.scandir(self._blocks) as entries:
            for entry in entries:
                if match := _BLOCK.fullmatch(entry.name):
                    stat = entry.stat()
                    found[int(match[1])] = stat.st_ino, stat.st_ctime_ns, stat.st_size
        if found:
            found[max(found)] = found[max(found)][:1]  # it is written to, and no other has its inode while we hold it
        if found == self._known:
            return
        if self._newest >= 0:
            # It has had its last bytes since it was synced; and a write to it that failed is told to this descriptor.
            os.fdatasync(self._newest)
        for number, file in found.items():
            if self._known.get(number) != file:
                _sync_file(self._blocks / f"{number}.blk")
        self._close()
        if found:
            self._newest = os.open(self._blocks / f"{max(found)}.blk", os.O_RDONLY | os.O_CLOEXEC)
        sync_folder(self._blocks)
        self._known = found
        self._inodes = {number: file[0] for number, file in found.items()}

    def _close(self) -> None:
        if self._newest >= 0:
            os.close(self._newest)
        self._newest = self._synced = -1

    def _sync_everything(self) -> None:
        """Every file below, and the names up to the store."""
        for place, folders, names in os.walk(self._folder):
            folders[:] = [folder for folder in folders if folder != FOLDER]  # the same blocks once more
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    _sync_file(Path(place, name))
            with contextlib.suppress(FileNotFoundError):
                sync_folder(Path(place))
        for folder in list(self._folder.parents)[:4]:  # streams, the account, jetstream, the store
            with contextlib.suppress(FileNotFoundError):  # the broker removes the first two with the last stream
                sync_folder(folder)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(handle)
    finally:
        os.close(handle)

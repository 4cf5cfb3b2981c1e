"""A disk whose power can be cut, for machines that allow no mount: strace notes every write and every sync, and after
the cut the folder is made anew of the synced bytes alone. It needs strace, and that a process may trace its children.

What is to feel the cut is started with `prefix()` before its command; all that it starts is traced with it.

What stands for the disk is a journaling file system: a sync of a file puts on disk what was written to it before the
sync began, and the names in its folder; nothing else ever reaches the disk. Writes by `write` append (nothing that is
traced here seeks before it writes), and what is written through a mapping is not seen: SQLite's `-shm`, which it
makes anew by itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import psutil

from paddock.testing.wait import until

from .disk import NoPowerToCut

_CALLS = (
    "open,openat,creat,write,pwrite64,writev,fsync,fdatasync,ftruncate,truncate,rename,renameat,renameat2,"
    "unlink,unlinkat,link,linkat"
)
_LINE = re.compile(rb"^(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)$", re.S)
_DONE = re.compile(rb"^(.*)\) += (\d+)(?:<((?:\\x[0-9a-f]{2})*)>)?(?: .*)?$", re.S)
_STRING = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')
_PATH = re.compile(rb'(?:<((?:\\x[0-9a-f]{2})*)>, )?"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(rb"^\d+<((?:\\x[0-9a-f]{2})*)>")
_UNFINISHED = b" <unfinished ...>"


class _File(msgspec.Struct):
    """An inode: what is on disk, and what was done to it since then (a number: cut to so many bytes)."""

    on_disk: bytearray | None = None
    size: int = 0
    since: list[tuple[int, bytes] | int] = []

    def write(self, at: int, data: bytes) -> None:
        self.since.append((at, data))
        self.size = max(self.size, at + len(data))

    def cut(self, size: int) -> None:
        self.since.append(size)
        self.size = size

    def sync(self, count: int) -> None:
        """The first `count` of what was done since the last sync is on disk now."""
        held = self.on_disk if self.on_disk is not None else bytearray()
        for what in self.since[:count]:
            if isinstance(what, int):
                del held[what:]
                held.extend(bytes(what - len(held)))
            else:
                at, data = what
                held.extend(bytes(max(0, at - len(held))))
                held[at : at + len(data)] = data
        del self.since[:count]
        self.on_disk = held


class TracedDisk:
    """The same as `Disk`, for processes started with `prefix()`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "disk"
        self.path.mkdir(parents=True)
        self._trace = folder / "trace.0"
        self._traces = 0
        tried = subprocess.run([*self.prefix(), "true"], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            raise NoPowerToCut(f"strace cannot trace here: {tried.stderr.strip()}")

    def prefix(self) -> list[str]:
        """How a command begins whose writes go to this disk; one such command at a time."""
        strace = shutil.which("strace")
        if strace is None:
            raise NoPowerToCut("strace is not installed")
        self._traces += 1
        self._trace = self._folder / f"trace.{self._traces}"
        self._begin()
        options = ["-D", "-f", "-qq", "-y", "-xx", "-s", "16777216", "-e", f"trace={_CALLS}", "-e", "signal=none"]
        return [strace, *options, "--seccomp-bpf", "-o", str(self._trace)]

    def cut(self) -> None:
        """What is not synced by now is lost; those who wrote must be ended now."""

    def restore(self) -> None:
        """The folder as the disk has it, made of what the trace tells."""
        until(self._told_all, what="strace has ended with those it traced")
        self._replay()
        for name, content in self._look().items():
            if name not in self._seen:  # by who was not to feel the cut
                self._on_disk.setdefault(name, _File(on_disk=content, since=[]))
        shutil.rmtree(self.path)
        self.path.mkdir()
        for name, file in self._on_disk.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(file.on_disk or b""))
            path.chmod(0o600)
        for folder in (self.path, *(path for path in self.path.rglob("*") if path.is_dir())):
            folder.chmod(0o700)
        self._trace.unlink()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _told_all(self) -> bool:
        for process in psutil.process_iter():
            try:
                if process.name() == "strace" and str(self._trace) in process.cmdline():
                    return False
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return True

    # --- the disk, as the trace tells of it

    def _begin(self) -> None:
        """What is there now was there before: it is on disk."""
        there = self._look()
        self._names = {name: _File(on_disk=content, size=len(content), since=[]) for name, content in there.items()}
        self._on_disk = dict(self._names)
        self._seen = set(self._names)
        """All names that the trace tells of, too."""
        self._through: set[str] = set()
        """Files opened with O_SYNC."""

    def _look(self) -> dict[str, bytearray]:
        return {str(path): bytearray(path.read_bytes()) for path in self.path.rglob("*") if path.is_file()}

    def _replay(self) -> None:
        begun: dict[bytes, tuple[bytes, int]] = {}
        with self._trace.open("rb") as lines:
            for text in lines:
                found = _LINE.match(text.rstrip(b"\n"))
                if found is None:
                    continue  # the end of a process
                pid, resumed, call, rest = found.groups()
                mark = -1
                if resumed:
                    before, mark = begun.pop(pid, (b"", -1))
                    call, rest = resumed, before + rest
                elif rest.endswith(_UNFINISHED):
                    rest = rest.removesuffix(_UNFINISHED)
                    begun[pid] = rest, self._mark(rest)
                    continue
                done = _DONE.match(rest)
                if done is not None:
                    self._did(call.decode(), done[1], int(done[2]), _text(done[3] or b""), mark)

    def _mark(self, args: bytes) -> int:
        """How much had been done to the file when a call on it began: a sync promises nothing of what came later."""
        held = _FD.match(args)
        file = self._names.get(_text(held[1])) if held else None
        return len(file.since) if file is not None else -1

    def _did(self, call: str, args: bytes, result: int, opened: str, mark: int) -> None:
        held = _FD.match(args)
        if call in ("open", "openat", "creat"):
            self._opened(args, opened)
        elif call.startswith("rename"):
            old, new = _paths(args)
            file = self._names.pop(old, None)
            if file is not None:
                self._seen.add(new)
                self._names[new] = file
        elif call.startswith("link"):
            old, new = _paths(args)
            if old in self._names:
                self._seen.add(new)
                self._names[new] = self._names[old]
        elif call.startswith("unlink"):
            self._names.pop(_paths(args)[0], None)
        elif call == "truncate":
            (path,) = _paths(args)
            if path in self._names:
                self._names[path].cut(_last_number(args))
        elif held is not None and self._is_here(_text(held[1])):
            self._touched(call, _text(held[1]), args, result, mark)

    def _is_here(self, path: str) -> bool:
        return path == str(self.path) or path.startswith(f"{self.path}/")

    def _opened(self, args: bytes, path: str) -> None:
        if not self._is_here(path):
            return
        if b"O_CREAT" in args and path not in self._names:
            self._names[path] = _File(since=[])
            self._seen.add(path)
        if b"O_TRUNC" in args and path in self._names:
            self._names[path].cut(0)
        if b"O_SYNC" in args or b"O_DSYNC" in args:
            self._through.add(path)
        else:
            self._through.discard(path)

    def _touched(self, call: str, path: str, args: bytes, result: int, mark: int) -> None:
        file = self._names.get(path)
        if call in ("fsync", "fdatasync"):
            if file is not None:
                self._sync(path, file, len(file.since) if mark < 0 else mark)
            else:
                self._sync_names(path)
        elif file is None:
            return  # it has no name any more: nobody will find it after the cut
        elif call == "ftruncate":
            file.cut(_last_number(args))
        else:
            data = b"".join(_bytes(text) for text in _STRING.findall(args))[:result]
            file.write(_last_number(args) if call == "pwrite64" else file.size, data)
            if path in self._through:
                self._sync(path, file, len(file.since))

    def _sync(self, path: str, file: _File, count: int) -> None:
        file.sync(count)
        self._sync_names(path.rpartition("/")[0])

    def _sync_names(self, folder: str) -> None:
        for name in [name for name in self._on_disk if name.rpartition("/")[0] == folder and name not in self._names]:
            del self._on_disk[name]
        for name, file in self._names.items():
            if name.rpartition("/")[0] == folder:
                self._on_disk[name] = file


def _bytes(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode())


def _text(text: bytes) -> str:
    return _bytes(text).decode(errors="replace")


def _paths(args: bytes) -> list[str]:
    """The paths of a call; a relative one lies where the descriptor before it points to."""
    found = [(_text(where), _text(path)) for where, path in _PATH.findall(args)]
    return [path if path.startswith("/") else f"{where}/{path}" for where, path in found]


def _last_number(args: bytes) -> int:
    return int(args.rsplit(b",", 1)[1])

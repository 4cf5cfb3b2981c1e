"""The data directory: everything of one installation. Mode 0700; its owner is who runs Paddock.

paddock.json   {"format", "id"}: what this directory is
keeper.lock    held (flock) by the keeper; its pid is in it
token          of the API; 0600
keys/          identities of the fabric        fabric/     what the fabric stores
record.db      what happened                   node/<id>/  one node's journal, socket and agents
log/           one file a role                 run/        <role>.json: who runs now, and where it listens
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import resource
import secrets
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from paddock.app.process import is_alive, start_ticks
from paddock.app.room import FULL_BYTES, free_bytes
from paddock.fabric.boot import boot_id, is_this_boot
from paddock.fabric.files import sync_folder
from paddock.model.errors import DataDirError

FORMAT = 1
MIGRATIONS: Mapping[int, Callable[[Path], None]] = {}
"""format → what brings a directory of it to the next one."""

ENVIRONMENT = "PADDOCK_DATA"
DEFAULT = Path(".paddock")
FOLDERS = ("keys", "fabric", "node", "log", "run")


class Locked(DataDirError):
    """Another process of Paddock holds it."""

    code, status = "locked", 409

    def __init__(self, message: str, *, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs a role now: the content of `run/<role>.json`."""

    pid: int
    start_ticks: int
    boot: str = ""
    """Of which start of the host: pids and ticks begin anew with each."""
    url: str = ""
    stopping: bool = False
    """It was told to stop, and does."""

    @property
    def alive(self) -> bool:
        return is_this_boot(self.boot) and is_alive(self.pid, self.start_ticks)


def explain(error: OSError, path: Path) -> DataDirError:
    """What the system refused, as one sentence with what to do about it."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return DataDirError(f"no space left for {path}: free some, or name another folder with --data")
        case errno.EROFS:
            return DataDirError(f"{path} is on a read-only file system: name another folder with --data")
        case errno.EACCES | errno.EPERM:
            return DataDirError(f"{path} may not be written by this user: name another folder with --data")
        case errno.ENOTDIR | errno.EEXIST:
            return DataDirError(f"{path} is not a folder, or lies under a file: name a folder with --data")
        case errno.EMFILE | errno.ENFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return DataDirError(f"too few open files are allowed (now {limit}) for {path}: raise 'ulimit -n'")
        case errno.ENAMETOOLONG:
            return DataDirError(f"the path {str(path)[:80]}… is too long: name a shorter one with --data")
        case _:
            return DataDirError(f"{path} cannot be used ({error.strerror or error}): name another folder with --data")


def locate(path: Path | None) -> Path:
    """`--data`, else $PADDOCK_DATA, else ./.paddock; absolute."""
    chosen = path or Path(os.environ.get(ENVIRONMENT) or DEFAULT)
    return Path(os.path.abspath(chosen.expanduser()))


class DataDir:
    """One installation on this machine. Make it with `DataDir.open`."""

    def __init__(self, path: Path, installation: str) -> None:
        self.path = path
        self.id = installation
        self.keys = path / "keys"
        self.fabric = path / "fabric"
        self.record_db = path / "record.db"
        self.log = path / "log"
        self.run = path / "run"

    @classmethod
    def open(cls, path: Path | None = None, *, create: bool = False) -> DataDir:
        """The installation at `path`; with `create`, a new one where there is nothing. `DataDirError` says why not."""
        folder = locate(path)
        try:
            return cls._open(folder, create=create)
        except OSError as error:
            raise explain(error, folder) from error

    @classmethod
    def _open(cls, folder: Path, *, create: bool) -> DataDir:
        card = folder / "paddock.json"
        if create and not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
        _check_folder(folder, create=create)
        if not card.exists():
            _make(folder, card, create=create)
        data = cls(folder, _read_card(card))
        if create:
            for name in FOLDERS:
                (folder / name).mkdir(mode=0o700, exist_ok=True)
            probe(folder)
        return data

    def node(self, node: str) -> Path:
        """The folder of one node; made when missing."""
        return self._folder(self.path / "node" / node)

    def log_file(self, role: str) -> Path:
        return self.log / f"{role}.log"

    def _folder(self, folder: Path) -> Path:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, folder) from error
        return folder

    def make_token(self) -> str:
        """The API's bearer token, made when there is none yet: for the server, which alone may do so."""
        path = self.path / "token"
        try:
            if not path.exists():
                write_once(path, secrets.token_urlsafe(32))
        except OSError as error:
            raise explain(error, path) from error
        return self.token

    @property
    def token(self) -> str:
        """The API's bearer token. Never print it."""
        path = self.path / "token"
        try:
            if path.stat().st_mode & 0o077:
                raise DataDirError(f"others can read the API token: run 'chmod 600 {path}'")
            token = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise DataDirError(
                f"{path} is missing, the API's token: 'paddock down', then 'paddock up' makes one"
            ) from None
        except UnicodeDecodeError:
            token = ""
        except OSError as error:
            raise explain(error, path) from error
        if not token.isprintable() or not token:
            raise DataDirError(f"the API token is damaged: delete {path}, then 'paddock down' and 'paddock up'")
        return token

    def running(self, role: str) -> Running | None:
        """Who runs this role now, or None. What its file says is believed only of a process that lives."""
        try:
            running = msgspec.json.decode((self.run / f"{role}.json").read_bytes(), type=Running)
        except (OSError, msgspec.DecodeError):
            return None
        return running if running.alive else None

    def stopped_by(self) -> int:
        """The pid of who stops this installation now: a keeper that was told to, or a `down`; 0: nobody."""
        keeper, down = self.running("keeper"), self.running("down")
        stops = keeper if keeper and keeper.stopping else down
        return stops.pid if stops else 0

    @contextmanager
    def claim(self, role: str, *, url: str = "") -> Iterator[None]:
        """Be the one process of this role: `run/<role>.json` names this process for as long as it lives.

        `Locked` when another one runs. The lock goes with the process, however it ends."""
        with self._flock(self.run / f"{role}.lock", f"the {role} of {self.path}", role):
            yield from self._announced(role, url)

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Be the one keeper of this installation. `Locked`, with the pid of who is, when there is one."""
        with self._flock(self.path / "keeper.lock", f"the data directory {self.path}", "keeper"):
            yield from self._announced("keeper", "")

    def announce(self, role: str, *, url: str = "", pid: int | None = None, stopping: bool = False) -> Running:
        """Write who runs a role and where it listens; once more when the address is known only later."""
        pid = pid or os.getpid()
        running = Running(pid=pid, start_ticks=start_ticks(pid) or 0, boot=boot_id(), url=url, stopping=stopping)
        write_atomically(self.run / f"{role}.json", msgspec.json.encode(running))
        return running

    def _announced(self, role: str, url: str) -> Iterator[None]:
        self.announce(role, url=url)
        try:
            yield
        finally:
            with suppress(OSError):  # such as a disk that is read-only by now; it is believed only of who lives
                (self.run / f"{role}.json").unlink(missing_ok=True)

    @contextmanager
    def _flock(self, path: Path, what: str, role: str) -> Iterator[None]:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise explain(error, path) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running = self.running(role)
                pid = running.pid if running else 0
                raise Locked(
                    f"{what} is in use by {f'process {pid}' if pid else 'another process'}: "
                    f"stop it with 'paddock down', or name another folder with --data",
                    pid=pid,
                ) from None
            with suppress(OSError):  # for people who look; the disk may be read-only by now
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old content or the new one, never a part; on disk when this returns."""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise explain(error, path) from error


def write_once(path: Path, text: str) -> None:
    """Make a 0600 file with this content, unless somebody else was quicker; whole or not at all."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _check_folder(folder: Path, *, create: bool) -> None:
    try:
        facts = folder.stat()
    except FileNotFoundError:
        raise DataDirError(
            f"there is no Paddock at {folder}: 'paddock up' makes one there, or name another folder with --data"
        ) from None
    if not stat.S_ISDIR(facts.st_mode):
        raise DataDirError(f"{folder} is not a folder: name a folder with --data")
    if facts.st_uid != os.geteuid():
        raise DataDirError(
            f"{folder} belongs to {_user(facts.st_uid)}, not to {_user(os.geteuid())}: "
            f"run Paddock as its owner, or name another folder with --data"
        )
    if facts.st_mode & 0o077:
        if not _is_installation(folder):
            if create and not any(folder.iterdir()):
                folder.chmod(0o700)  # nothing is in it yet that others could have read
            return  # it is not ours, and holds no keys
        raise DataDirError(f"others can read {folder}, which holds keys: run 'chmod 700 {folder}'")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _is_installation(folder: Path) -> bool:
    """Also one of which the card was lost."""
    return (folder / "paddock.json").exists() or all((folder / name).is_dir() for name in FOLDERS)


def _make(folder: Path, card: Path, *, create: bool) -> None:
    """Also when only the card of an installation was lost: what it says is known (while there is but one format)."""
    if _is_installation(folder):
        write_once(card, json.dumps({"format": FORMAT, "id": uuid.uuid4().hex}))
        return
    if not create:
        raise DataDirError(
            f"{folder} is no data directory of Paddock: 'paddock up' makes one, or name another folder with --data"
        )
    foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith((".paddock.json.", "paddock.json")))
    if foreign:
        raise DataDirError(f"{folder} holds other things ({foreign[0]}, …): name an empty or a new folder with --data")
    write_once(card, json.dumps({"format": FORMAT, "id": uuid.uuid4().hex}))


def _read_card(card: Path) -> str:
    try:
        content: Any = json.loads(card.read_bytes())
        version, installation = content["format"], content["id"]
        good = type(version) is int and isinstance(installation, str)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise DataDirError(f"{card} is damaged: delete it, and it is made anew")
    if version > FORMAT:
        raise DataDirError(
            f"{card.parent} was made by a newer Paddock (format {version}, this one knows {FORMAT}): "
            f"update Paddock, or name another folder with --data"
        )
    while version < FORMAT:
        if version not in MIGRATIONS:
            raise DataDirError(f"{card.parent} has the unknown format {version}: name another folder with --data")
        MIGRATIONS[version](card.parent)
        version += 1
        write_atomically(card, json.dumps({"format": version, "id": installation}).encode())
    return str(installation)


def probe(folder: Path) -> None:
    """Look for room and write a byte now, so that a full or read-only disk is told before anything starts."""
    if free_bytes(folder) < FULL_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())

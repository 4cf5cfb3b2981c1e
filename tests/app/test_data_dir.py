from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from paddock.app.data import DataDir, Locked, explain, locate, write_atomically
from paddock.app.process import is_alive, send, start_ticks
from paddock.model.errors import DataDirError


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir.open(tmp_path / "data", create=True)


def test_a_new_data_directory_is_for_its_owner_alone_and_keeps_its_id(data: DataDir) -> None:
    assert stat.S_IMODE(data.path.stat().st_mode) == 0o700
    again = DataDir.open(data.path)
    assert again.id == data.id
    assert all((data.path / name).is_dir() for name in ("keys", "fabric", "node", "log", "run"))


def test_the_option_wins_over_the_environment_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PADDOCK_DATA", raising=False)
    assert locate(None) == tmp_path / ".paddock"
    monkeypatch.setenv("PADDOCK_DATA", str(tmp_path / "elsewhere"))
    assert locate(None) == tmp_path / "elsewhere"
    assert locate(Path("here")) == tmp_path / "here"


def test_a_missing_directory_is_not_made_by_who_only_looks(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"there is no Paddock at .*paddock up"):
        DataDir.open(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirError, match="is not a folder"):
        DataDir.open(tmp_path / "data", create=True)
    with pytest.raises(DataDirError, match="is not a folder"):
        DataDir.open(tmp_path / "data" / "below", create=True)


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    tmp_path.chmod(0o700)
    with pytest.raises(DataDirError, match=r"holds other things \(letters\.txt"):
        DataDir.open(tmp_path, create=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.txt"]


def test_a_card_that_was_lost_is_made_anew(data: DataDir) -> None:
    (data.path / "paddock.json").unlink()
    data.path.chmod(0o755)
    with pytest.raises(DataDirError, match="chmod 700"):
        DataDir.open(data.path)
    data.path.chmod(0o700)
    assert DataDir.open(data.path).path == data.path
    assert (data.path / "paddock.json").exists()


def test_a_folder_that_is_not_ours_is_not_told_to_be_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letters.txt").write_text("dear")
    for create in (True, False):
        with pytest.raises(DataDirError) as caught:
            DataDir.open(tmp_path, create=create)
        assert "chmod" not in caught.value.message


def test_a_directory_that_others_can_read_is_refused_with_the_command_that_helps(data: DataDir) -> None:
    data.path.chmod(0o750)
    with pytest.raises(DataDirError, match=f"chmod 700 {data.path}"):
        DataDir.open(data.path, create=True)


def test_an_empty_folder_made_by_hand_is_taken_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    DataDir.open(folder, create=True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_directory_of_another_user_is_refused(data: DataDir) -> None:
    foreign = Path("/")  # root's; but if that is us, we can give one away
    if os.geteuid() == 0:
        foreign = data.path
        os.chown(foreign, 12345, 12345)
    with pytest.raises(DataDirError, match=r"belongs to (root|user 12345), not to"):
        DataDir.open(foreign)


def test_a_place_that_cannot_be_written_is_told_as_one_sentence() -> None:
    with pytest.raises(DataDirError, match=r"/proc/paddock.* --data"):
        DataDir.open(Path("/proc/paddock/data"), create=True)


def test_too_few_open_files_are_no_fault_of_the_folder() -> None:
    message = explain(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), Path("/srv/data")).message
    assert "raise 'ulimit -n'" in message
    assert "--data" not in message


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "read-only file system"),
        (errno.EACCES, "may not be written"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EIO, "cannot be used"),
    ],
)
def test_what_the_system_refuses_is_explained_with_what_to_do(number: int, words: str) -> None:
    message = explain(OSError(number, os.strerror(number)), Path("/srv/data")).message
    assert words in message
    assert "--data" in message


def test_a_directory_from_a_newer_paddock_is_refused(data: DataDir) -> None:
    (data.path / "paddock.json").write_text(json.dumps({"format": 2, "id": data.id}))
    with pytest.raises(DataDirError, match="made by a newer Paddock"):
        DataDir.open(data.path, create=True)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "1", "id": "x"}', '{"format": true, "id": "x"}', "\x00"])
def test_a_damaged_card_is_told_not_guessed_at(data: DataDir, content: str) -> None:
    (data.path / "paddock.json").write_text(content)
    with pytest.raises(DataDirError, match="is damaged"):
        DataDir.open(data.path)


def test_an_older_format_is_migrated_once(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr("paddock.app.data.MIGRATIONS", {0: seen.append})
    (data.path / "paddock.json").write_text(json.dumps({"format": 0, "id": data.id}))
    assert DataDir.open(data.path).id == data.id
    assert DataDir.open(data.path).id == data.id
    assert seen == [data.path]


def test_the_token_is_secret_and_stays_the_same(data: DataDir) -> None:
    with pytest.raises(DataDirError, match="is missing, the API's token: 'paddock down'"):
        _ = data.token
    token = data.make_token()
    assert len(token) >= 32
    assert data.make_token() == data.token == token
    assert stat.S_IMODE((data.path / "token").stat().st_mode) == 0o600
    assert DataDir.open(data.path).token == token


@pytest.mark.parametrize("content", [b"", b"\n", "tök\n".encode(), b"\xff\x00\x80", b"a\nb"])
def test_a_damaged_token_is_told_and_how_to_get_another(data: DataDir, content: bytes) -> None:
    data.make_token()
    (data.path / "token").write_bytes(content)
    with pytest.raises(DataDirError, match="is damaged: delete"):
        _ = data.token


def test_a_token_that_others_can_read_is_refused_without_being_shown(data: DataDir) -> None:
    token = data.make_token()
    (data.path / "token").chmod(0o644)
    with pytest.raises(DataDirError) as caught:
        _ = data.token
    assert "chmod 600" in caught.value.message
    assert token not in caught.value.message


def test_only_one_keeper_holds_it_and_the_second_learns_who(data: DataDir) -> None:
    with data.keep():
        with pytest.raises(Locked, match=f"in use by process {os.getpid()}") as caught, data.keep():
            pass
        assert caught.value.pid == os.getpid()
    with data.keep():
        pass


def test_a_claim_goes_with_its_process_however_that_ends(data: DataDir) -> None:
    script = (
        "import sys; from pathlib import Path; from paddock.app.data import DataDir\n"
        "with DataDir.open(Path(sys.argv[1])).claim('node', url='x://y'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(data.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        running = data.running("node")
        assert running is not None
        assert (running.pid, running.url) == (holder.pid, "x://y")
        with pytest.raises(Locked), data.claim("node"):
            pass
        holder.kill()
    assert data.running("node") is None
    with data.claim("node"):
        pass


def test_a_reused_pid_is_not_taken_for_the_role(data: DataDir) -> None:
    running = data.announce("server", url="http://x")
    write_atomically(
        data.run / "server.json", json.dumps({"pid": running.pid, "start_ticks": running.start_ticks - 1}).encode()
    )
    assert data.running("server") is None


def test_who_ran_before_the_host_was_started_anew_is_not_taken_for_the_role(data: DataDir) -> None:
    """Pids and ticks begin anew then: both may be another's by chance."""
    running = data.announce("server", url="http://x")
    assert data.running("server") == running
    write_atomically(data.run / "server.json", msgspec.json.encode(msgspec.structs.replace(running, boot="earlier")))
    assert data.running("server") is None


def test_a_process_is_known_by_pid_and_ticks_and_a_zombie_is_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    ticks = start_ticks(child.pid)
    assert ticks is not None
    assert is_alive(child.pid, ticks)
    assert not send(child.pid, ticks - 1, 9)
    assert send(child.pid, ticks, 9)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child.pid, ticks)
    child.communicate()
    assert not send(child.pid, ticks, 9)

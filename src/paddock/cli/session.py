"""What the global options say: which data directory, which server, with which token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from paddock.app.data import DataDir, locate
from paddock.model.errors import Unavailable

if TYPE_CHECKING:
    from paddock.cli.client import Api


@dataclass(frozen=True)
class Session:
    data: Path | None = None
    url: str = ""
    token: str = ""

    def api(self) -> Api:
        """The server of `--url`, else the one that runs for the data directory."""
        from paddock.cli.client import Api

        if self.url:
            return Api(self.url, self.token or self._local_token(self.url), nobody=f"nothing answers at {self.url}")
        folder = locate(self.data)
        nobody = (
            f"no Paddock is running for {folder}: start it with 'paddock up', name another folder with --data, "
            f"or a server with --url"
        )
        if not folder.exists():
            raise Unavailable(nobody)
        data = DataDir.open(folder)
        running = data.running("server")
        if (data.run / "started").exists():
            nobody = (
                f"the server of {folder} is gone, its agents may run on: 'paddock up' takes them over, "
                f"'paddock down' ends them"
            )
        if data.running("keeper") is not None:
            nobody = f"the server of {folder} is starting or was stopped: try again; see {data.log_file('server')}"
        if running is None or not running.url:
            raise Unavailable(nobody)
        return Api(running.url, self.token or data.token, nobody=nobody)

    def _local_token(self, url: str) -> str:
        """The data directory's token, but for its own server only: no other is told it."""
        folder = locate(self.data)
        if not (folder / "token").exists():
            return ""
        data = DataDir.open(folder)
        running = data.running("server")
        return data.token if running and running.url.rstrip("/") == url.rstrip("/") else ""


def session(context: typer.Context) -> Session:
    return cast(Session, context.find_object(Session) or Session())

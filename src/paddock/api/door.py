"""The door of the HTTP edge, around everything else: which host was meant, who asks, how long it took, what broke.

It is plain ASGI: no copy of a body, no task of its own, and streams pass through it.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
import traceback
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddock.api.metrics import HttpMetrics
from paddock.api.problems import Internal, Misdirected, Unauthorized, response_of
from paddock.model.errors import PaddockError

OPEN_PATHS = frozenset({"/", "/health", "/healthz", "/readyz", "/docs", "/redoc", "/openapi.json"})
OPEN_PREFIX = "/docs/assets/"
QUIET_PATHS = frozenset({"/health", "/healthz", "/readyz"})
"""Asked every few seconds by machines: logged only when the answer is bad."""

UNAUTHORIZED = (
    "send 'Authorization: Bearer <token>': the CLI reads the token from the data directory by itself; "
    "elsewhere pass --token, or the content of the file 'token' in the server's data directory"
)


class Door:
    """Middleware: refuses foreign hosts and callers without the token, logs each answer, turns surprises into 500."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Sequence[str], metrics: HttpMetrics, log: Any) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self._any_address = bool(self._hosts & {"0.0.0.0", "::"})  # noqa: S104  what was configured, not what we bind
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # lifespan; there are no websockets here
            return
        began = time.monotonic()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope.setdefault("state", {})
        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, receive, watched)
            else:
                scope["state"]["problem"] = refusal.code
                await response_of(refusal, path=scope["path"])(scope, receive, watched)
        except ClientDisconnect:
            pass  # the caller left in the middle of its body: nobody is there to be answered
        except Exception as error:
            if status:  # the answer is under way: all that is left is to break it off, so that nobody takes it as whole
                self._log_crash(error, scope, uuid4().hex)
                raise
            name = uuid4().hex
            self._log_crash(error, scope, name)
            crash = Internal(f"this is a bug of Paddock; the server's log has it as error {name}")
            answer = response_of(crash, path=scope["path"], instance=f"urn:paddock:error:{name}")
            await answer(scope, receive, watched)
        finally:
            self._note(scope, status, time.monotonic() - began)

    def _refusal(self, scope: Scope) -> PaddockError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_ours(host):
            return Misdirected(
                f"Host {host[:100]!r} is not this server: use 127.0.0.1, localhost or the host given to 'paddock up' "
                "(this keeps web pages of others from reaching it under a name of theirs)"
            )
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return None
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token):
            return None
        return Unauthorized(f"the token is {'wrong' if token else 'missing'}; {UNAUTHORIZED}")

    def _is_ours(self, host: str) -> bool:
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name == "localhost" or name.endswith(".localhost") or (name and name in self._hosts):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._any_address

    def _note(self, scope: Scope, status: int, duration_s: float) -> None:
        """One line of the access log: never the query, the headers or the body."""
        route = getattr(scope.get("route"), "path", "")
        streamed = bool(scope["state"].get("streamed"))
        self._metrics.note(scope["method"], route, status, None if streamed else duration_s)
        if scope["path"] in QUIET_PATHS and status == 200:
            return
        values: dict[str, Any] = {  # status 0: the caller left before there was one
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "duration_ms": round(duration_s * 1000, 2),
            "by": scope["state"].get("by", ""),
        }
        if problem := scope["state"].get("problem"):
            values["problem"] = problem
        if status >= 500:
            self._log.warning("http", **values)
        else:
            self._log.info("http", **values)

    def _log_crash(self, error: Exception, scope: Scope, name: str) -> None:
        """The kind of error and where it was raised. Not its message: that may quote what the caller sent."""
        frames = traceback.extract_tb(error.__traceback__)[-20:]
        self._log.error(
            "unexpected error",
            error_id=name,
            kind=type(error).__name__,
            path=scope["path"][:200],
            where=[f"{frame.filename}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames],
        )

"""The HTTP API as the CLI uses it. Every failure is a PaddockError with a sentence for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from paddock.model.errors import Denied, PaddockError, QueueFull, Refused, Unavailable

PAGE = 500
WAIT_S = 25.0
"""How long one request waits for something to happen, at the most; longer waits are several requests."""


class ApiError(PaddockError):
    """The server refused it."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Api:
    """May be used by several threads at once."""

    def __init__(self, url: str, token: str = "", *, nobody: str = "") -> None:
        self.url = url.rstrip("/")
        self._nobody = nobody or f"nothing answers at {self.url}"
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unavailable(f"{url!r} is no URL of a server: give one such as http://127.0.0.1:8000 with --url")
        if not (token.isascii() and token.isprintable()):
            raise Denied("the token holds what no token does, only printable ASCII: see $PADDOCK_TOKEN and --token")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(30.0, read=WAIT_S + 30.0, pool=None),
            limits=httpx.Limits(max_connections=64),
            trust_env=parts.hostname not in ("127.0.0.1", "localhost", "::1"),  # no proxy to our own machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self.call("GET", path, params)

    def text(self, path: str, **params: Any) -> str:
        """An answer that is no JSON, such as a page."""
        return self._send("GET", path, params).text

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        return self.call("POST", path, params, body)

    def call(self, method: str, path: str, params: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        """One request; the answer's JSON (None when it has no body)."""
        answer = self._send(method, path, params, body)
        return self._json(answer) if answer.content else None

    def _send(
        self, method: str, path: str, params: Mapping[str, Any] | None = None, body: Any = None
    ) -> httpx.Response:
        given = {key: value for key, value in (params or {}).items() if value not in (None, "")}
        try:
            if body is None:
                answer = self._http.request(method, path, params=given)
            else:
                answer = self._http.request(method, path, params=given, json=body)
        except ValueError as error:  # NaN, or what no JSON can say
            raise ApiError(f"the request cannot be sent as JSON: {error}", status=422, code="refused") from error
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"{self.url} did not answer in time: see 'paddock status' and 'paddock doctor'"
            ) from error
        except httpx.ConnectError as error:
            raise Unavailable(self._nobody) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{self.url} broke off ({error}): try again; see 'paddock status'") from error
        if answer.is_success:
            return answer
        raise self._error(answer)

    def pages(self, path: str, *, limit: int, **params: Any) -> Iterator[Any]:
        """The items of all pages, up to `limit`."""
        after = None
        while limit > 0:
            page = self.get(path, **params, limit=min(limit, PAGE), after=after)
            items = page["items"][:limit]
            yield from items
            limit -= len(items)
            after = page.get("next")
            if not after or not items:
                return

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise Unavailable(f"{self.url} does not speak Paddock's API: check --url") from error

    def _error(self, answer: httpx.Response) -> PaddockError:
        try:
            told = answer.json()
            detail = str(told.get("detail") or told.get("title") or "")
            code = str(told.get("type") or "error").rpartition(":")[2]
        except (ValueError, AttributeError):
            detail, code = "", "error"
        if answer.status_code == 401:
            return Denied(
                f"{self.url} does not know this token: set $PADDOCK_TOKEN, or name the server's data directory "
                f"with --data"
            )
        if answer.status_code == 429:
            after = answer.headers.get("Retry-After", "")
            return QueueFull(
                detail or "the queue is full: try again later", retry_after_s=int(after) if after.isdigit() else 1
            )
        return ApiError(
            detail or f"{self.url} answered {answer.status_code} to {answer.request.method} {answer.request.url.path}",
            status=answer.status_code,
            code=code,
        )


def agent_path(agent: str) -> str:
    """`/api/v1/agents/fleet/name`; Refused when it is no agent's id."""
    from paddock.model.names import split_agent

    fleet, name = split_agent(agent)
    return f"/api/v1/agents/{fleet}/{name}"


def path_of(kind: str, name: str) -> str:
    """`/api/v1/<kind>/<name>`, whatever somebody typed as a name; Refused when it would lead to another path."""
    if name in ("", ".", ".."):
        raise Refused(f"{name!r} is no name: 'paddock get --help' tells how to list the names there are")
    return f"/api/v1/{kind}/{quote(name, safe='')}"

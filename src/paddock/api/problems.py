"""Errors at the HTTP edge: every one leaves as RFC 9457 problem details, with what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from paddock.model.errors import PaddockError, QueueFull, Refused, Unavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
SHOWN_CHARS_MAX = 100


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details: what every answer of 400 and above holds."""

    type: str
    """`urn:paddock:problem:<code>`; the code is stable, the texts are not."""
    title: str
    """The kind of problem, in one sentence."""
    status: int
    """The HTTP status, once more."""
    detail: str
    """What, where and what to do, for people."""
    instance: str
    """The path that was asked for; for an internal error `urn:paddock:error:<id>`, as it is in the server's log."""


class NotJson(PaddockError):
    """The body is not JSON."""

    code, status = "not-json", 400


class UnsupportedBody(PaddockError):
    """The body comes in an encoding that is not read here."""

    code, status = "unsupported-body", 415


class Unauthorized(PaddockError):
    """The token is missing or wrong."""

    code, status = "unauthorized", 401


class Misdirected(PaddockError):
    """The request is for another host."""

    code, status = "misdirected", 421


class NoRoute(PaddockError):
    """There is no such route."""

    code, status = "no-route", 404


class WrongMethod(PaddockError):
    """The route does not answer to this method."""

    code, status = "wrong-method", 405


class Internal(PaddockError):
    """Something went wrong inside Paddock."""

    code, status = "internal", 500


class ProblemResponse(Response):
    media_type = MEDIA_TYPE

    def render(self, content: Problem) -> bytes:
        return msgspec.json.encode(content)


def nearest(word: str, among: Iterable[str]) -> str:
    """`; did you mean 'fleet'?`, or nothing when none is near."""
    close = difflib.get_close_matches(word[:SHOWN_CHARS_MAX], list(among), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """What the caller sent, short enough for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"


def response_of(
    error: PaddockError, *, path: str, instance: str = "", headers: dict[str, str] | None = None
) -> ProblemResponse:
    """The answer for an error. An error that is no HTTP failure by itself (a task's own) is ours to answer for: 500."""
    status = error.status if error.status >= 400 else 500
    headers = dict(headers or {})
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(max(1, error.retry_after_s))
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="paddock"'
    problem = Problem(
        type=f"urn:paddock:problem:{error.code}",
        title=((type(error).__doc__ or "").strip().splitlines() or [error.code])[0],
        status=status,
        detail=error.message,
        instance=instance or path,
    )
    return ProblemResponse(problem, status_code=status, headers=headers)


async def _on_paddock_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, PaddockError):
        raise error
    request.state.problem = error.code
    headers = {"Connection": "close"} if error.status == 413 else None
    return response_of(error, path=request.url.path, headers=headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """404 and 405 of the router itself."""
    if not isinstance(error, HTTPException):
        raise error
    path, method = request.url.path, request.method
    allow = (error.headers or {}).get("Allow", "")
    problem: PaddockError
    if error.status_code == 405:
        problem = WrongMethod(f"{method[:20]} is not for {path[:200]}; it answers to {allow or 'other methods'}")
    elif error.status_code == 404:
        near = nearest(path, request.app.state.paths)
        problem = NoRoute(f"there is no route {path[:200]}{near or '; see /docs'}")
    else:
        problem = PaddockError(str(error.detail) or HTTPStatus(error.status_code).phrase)
        problem.status = error.status_code
    return response_of(problem, path=path, headers=dict(error.headers or {}))


def _sentence(mistake: dict[str, Any]) -> str:
    where, *names = [str(part) for part in mistake.get("loc", ())] or ["request"]
    text = str(mistake.get("msg", "is wrong"))
    return f"{where} {'.'.join(names)}: {text[:1].lower()}{text[1:]}, got {shown(mistake.get('input'))}"


async def _on_bad_parameters(request: Request, error: Exception) -> Response:
    """Parameters of path and query that FastAPI refused."""
    if not isinstance(error, RequestValidationError):
        raise error
    return response_of(Refused("; ".join(_sentence(mistake) for mistake in error.errors())), path=request.url.path)


def install(app: FastAPI) -> None:
    """Let every error of `app` leave as a problem. What nobody expected is `door.Door`'s."""
    app.add_exception_handler(PaddockError, _on_paddock_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_bad_parameters)

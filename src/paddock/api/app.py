"""Puts the HTTP edge together: routes, errors, door, documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute

from paddock.api import agents, alerts, care, cluster, docs, fleets, openapi, operators, problems, system, tasks
from paddock.api.door import Door
from paddock.api.log import make_log
from paddock.api.metrics import HttpMetrics
from paddock.control.service import Control

HEARTBEAT_S = 15.0
ROUTERS = (
    tasks.router,
    agents.router,
    care.router,
    fleets.router,
    system.router,
    alerts.router,
    cluster.router,
    operators.router,
)


def create_app(
    control: Control,
    *,
    token: str,
    version: str,
    hosts: Sequence[str] = (),
    heartbeat_s: float = HEARTBEAT_S,
    log: Any = None,
) -> FastAPI:
    """The HTTP edge over `control`. `hosts` are names, besides loopback, by which the server may be addressed: the
    host it is bound to. `log` is a structlog logger; JSON on stderr when not given."""
    if not token:
        raise ValueError("a server without a token would let everybody in")
    app = FastAPI(
        title="Paddock",
        version=version,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.control = control
    app.state.stopping = asyncio.Event()  # `serve` puts its own here
    app.state.heartbeat_s = heartbeat_s
    app.state.metrics = HttpMetrics()
    _route(app)
    app.add_middleware(Door, token=token, hosts=hosts, metrics=app.state.metrics, log=log or make_log())
    return app


def _operation_id(route: APIRoute) -> str:
    """Short names for those who make clients from the document; FastAPI warns if two were the same."""
    return route.name


def _route(app: FastAPI) -> None:
    docs.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.state.paths = [route.path for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    problems.install(app)
    openapi.install(app)


def document(version: str) -> dict[str, Any]:
    """The OpenAPI document, without a server."""
    return create_app(cast(Control, None), token="none", version=version).openapi()  # noqa: S106  nobody can call it

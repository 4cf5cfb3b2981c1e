"""What the routes want from a request: control, who asks, and query parameters without misspellings."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from fastapi.routing import APIRoute

from paddock.api.problems import nearest, shown
from paddock.control.service import Control
from paddock.model.errors import Refused

BY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/ -]{0,63}")
NAMELESS = "api"
"""Who does not say who he is."""
KEY = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")


def _control(request: Request) -> Control:
    control: Control = request.app.state.control
    return control


def _by(
    request: Request,
    paddock_by: Annotated[
        str | None, Header(alias="Paddock-By", description="Who asks, for the history; `api` when not given.")
    ] = None,
) -> str:
    if paddock_by is None:
        request.state.by = NAMELESS
        return NAMELESS
    if not BY.fullmatch(paddock_by):
        raise Refused(
            f"header Paddock-By {shown(paddock_by)} is not of 1 to 64 letters, digits, spaces and _.@:/-, "
            "beginning with a letter or digit"
        )
    request.state.by = paddock_by
    return paddock_by


def _key(
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key for the same fleet is the same task; like `key` of the body.",
        ),
    ] = None,
) -> str:
    if idempotency_key is None:
        return ""
    # The standard's draft writes it as a quoted string, most clients do not.
    quoted = len(idempotency_key) > 1 and idempotency_key[0] == idempotency_key[-1] == '"'
    key = idempotency_key[1:-1] if quoted else idempotency_key
    if not KEY.fullmatch(key):
        raise Refused("header Idempotency-Key is not of 1 to 200 printable ASCII characters")
    return key


def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not know: a misspelt filter would answer with everything."""
    route = request.scope.get("route")
    if not request.url.query or not isinstance(route, APIRoute):
        return
    known = [field.alias for field in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise Refused(
                f"unknown query parameter {shown(name)}{nearest(name, known)} "
                f"(known: {', '.join(known) if known else 'none'})"
            )


ControlDep = Annotated[Control, Depends(_control)]
ByDep = Annotated[str, Depends(_by)]
KeyDep = Annotated[str, Depends(_key)]

Limit = Annotated[int, Query(ge=1, le=1000, description="How many items a page holds at the most.")]
AgentsLimit = Annotated[int, Query(ge=1, le=5000, description="How many agents a page holds at the most.")]
After = Annotated[str, Query(max_length=500, description="`next` of the page before; empty: the first page.")]
WaitS = Annotated[
    float, Query(ge=0, le=300, allow_inf_nan=False, description="Wait so many seconds at the most for its end.")
]
FleetFilter = Annotated[str, Query(max_length=100, description="Only those of this fleet.")]

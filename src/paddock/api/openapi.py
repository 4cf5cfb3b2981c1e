"""The OpenAPI document: FastAPI's paths, the schemas of our structs, and the problems that every route can answer.

`openapi.json` beside this file is what it makes; write it anew with `python -m paddock.api.openapi`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from paddock.api import bodies, fleets, shapes
from paddock.api.describe import schema_of
from paddock.api.problems import MEDIA_TYPE, Problem
from paddock.control.service import Change
from paddock.decide.explain import Explanation
from paddock.decide.rehearse import Rehearsed
from paddock.model.kpi import HealthReport, KpiReport, OpsReport
from paddock.model.plan import Plan

COMMITTED = Path(__file__).with_name("openapi.json")

STRUCTS = (
    *bodies.INPUTS,
    shapes.AgentPage,
    shapes.TaskPage,
    shapes.HistoryPage,
    shapes.NodeList,
    shapes.LogText,
    shapes.Healed,
    shapes.AlertTests,
    shapes.Alive,
    shapes.Readiness,
    shapes.LiveAgents,
    shapes.ClusterTask,
    shapes.ScoreList,
    shapes.AgentHealth,
    shapes.IncidentPage,
    shapes.RolledBack,
    shapes.OpsList,
    OpsReport,
    Explanation,
    Rehearsed,
    KpiReport,
    HealthReport,
    fleets.FleetList,
    Plan,
    Change,
    Problem,
)

DESCRIPTION = """\
Paddock keeps fleets of agents alive. Declare what should run with a manifest (`apply`), give it work (`tasks`), look
at it (`agents`, `fleets`, `nodes`, `history`, `events`).

* **Who may ask**: send `Authorization: Bearer <token>`. The CLI reads the token from the data directory by itself.
* **Errors** are problem details (RFC 9457): `type` ends with a stable code, `detail` says what, where and what to do.
* **Pages**: pass `next` of a page as `after` for the one that follows; `null` means the end.
* **Times** are unix seconds; durations end in `_s`.
"""

TAGS = [
    {"name": "tasks", "description": "Work: submit, wait, list, cancel, replay."},
    {"name": "agents", "description": "Running members of fleets, and their logs."},
    {"name": "healing", "description": "Health, incidents, why something was done, reports."},
    {"name": "fleets", "description": "What is wanted and what is."},
    {"name": "manifests", "description": "Declare what should run."},
    {"name": "nodes", "description": "Supervisors, one for each host."},
    {"name": "alerts", "description": "Whether people can be told."},
    {"name": "system", "description": "Alive, ready, totals, figures, history, live changes."},
    {"name": "cluster", "description": "Aliases that operators of older systems know."},
]

PROBLEMS = {
    "400": "The body is not JSON in UTF-8 (`not-json`).",
    "401": "The token is missing or wrong (`unauthorized`).",
    "404": "There is no such thing (`not-found`).",
    "409": "It exists already, or was changed meanwhile (`conflict`).",
    "413": "The body or the payload is over the limit (`too-large`).",
    "421": "The Host header names another server (`misdirected`).",
    "422": "Refused, with place and reason; nothing was changed (`refused`).",
    "429": "The queue is full; Retry-After says when to try again (`queue-full`).",
    "503": "A part that is needed does not answer now (`unavailable`).",
    "default": "Any other problem.",
}


def install(app: FastAPI) -> None:
    """Let `app.openapi()` answer with our document, made once, when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = make(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to replace it


def make(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title="Paddock", version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS)
    components = document.setdefault("components", {})
    components["schemas"] = dict(sorted(_schemas().items()))
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    for path, item in document["paths"].items():
        for operation in item.values():
            _finish(path, operation)
    return document


def _finish(path: str, operation: dict[str, Any]) -> None:
    """Add the problems that this operation can answer with; FastAPI's own idea of a 422 is not ours."""
    answers = operation["responses"]
    answers.pop("422", None)
    statuses = ["421", "default"]
    if operation.get("security") != []:
        statuses.append("401")
    if "parameters" in operation or "requestBody" in operation:
        statuses.append("422")
    if "requestBody" in operation:
        statuses += ["400", "413", "503"]
    if "{" in path:
        statuses += ["404", "503"]
    if "task" in path and "requestBody" in operation:
        statuses += ["404", "429"]
    if any(word in path for word in ("apply", "replay", "cancel", "scale")):
        statuses.append("409")
    content = {MEDIA_TYPE: {"schema": schema_of(Problem)}}
    for status in statuses:
        answers.setdefault(status, {"description": PROBLEMS[status], "content": content})
    operation["responses"] = dict(sorted(answers.items()))


def _schemas() -> dict[str, Any]:
    _, components = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    for kind in _all_structs():
        schema = components.get(kind.__name__)
        if schema is None:
            continue
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])  # as Python 3.13 has it by itself
        for name, text in _field_texts(kind).items():
            if name in schema["properties"]:
                schema["properties"][name] = _with_text(schema["properties"][name], text)
        if kind not in bodies.INPUTS and not kind.__struct_config__.omit_defaults:
            schema["required"] = list(schema["properties"])  # what we answer is always whole
    return components


def _with_text(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {**schema, "description": text}


def _all_structs() -> list[type[msgspec.Struct]]:
    """The structs above and those within them."""
    found: dict[type[msgspec.Struct], None] = {}

    def visit(info: Any) -> None:
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found:
                return
            found[info.cls] = None
            for field in info.fields:
                visit(field.type)
        for name in ("item_type", "value_type"):
            if hasattr(info, name):
                visit(getattr(info, name))
        for part in getattr(info, "types", ()):
            visit(part)

    for kind in STRUCTS:
        visit(msgspec.inspect.type_info(kind))
    return list(found)


def _field_texts(kind: type) -> dict[str, str]:
    """The docstrings under the fields of a class, as its source has them; none when there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except OSError:  # installed without sources: the document is the same, with fewer words
        return {}
    body = ast.parse(source).body[0]
    texts: dict[str, str] = {}
    if not isinstance(body, ast.ClassDef):
        return texts
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            texts[field.target.id] = " ".join(text.value.value.split())
    return texts


def encode(document: dict[str, Any]) -> bytes:
    """As it is committed: readable, and free of the version, which changes with every release."""
    document = document | {"info": document["info"] | {"version": "committed"}}
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


if __name__ == "__main__":
    from paddock.api.app import document

    COMMITTED.write_bytes(encode(document("committed")))

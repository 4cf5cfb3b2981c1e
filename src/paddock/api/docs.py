"""The pages /docs (Swagger UI) and /redoc, offline: every asset is served from here, and nothing may call out.

Swagger UI and Redoc come from the package fastapi-offline, of which only the static files are used: its FastAPI
class cannot set the pages' content security policy. The policy is what makes sure that no script, font or image is
fetched from anywhere else, whatever a new release of theirs would like to load.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

ASSETS = "/docs/assets"
OWN = Path(__file__).with_name("static")

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # both pages write style elements while they run
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",  # Redoc's search
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='7' fill='%231f6f4a'/%3E"
    "%3Cpath d='M6 11h20M6 18h20M9 7v18M16 7v18M23 7v18' stroke='%23fff' stroke-width='2.4'/%3E%3C/svg%3E"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="{icon}">
{styles}
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript; the plain document is at <a href="/openapi.json">/openapi.json</a>.</noscript>
{scripts}
</body>
</html>
"""


def _page(title: str, *, styles: tuple[str, ...], scripts: tuple[str, ...]) -> str:
    return _PAGE.format(
        title=title,
        icon=ICON,
        styles="\n".join(f'<link rel="stylesheet" href="{ASSETS}/{name}">' for name in styles),
        scripts="\n".join(f'<script src="{ASSETS}/{name}"></script>' for name in scripts),
    )


SWAGGER = _page(
    "Paddock API", styles=("swagger-ui.css", "pages.css"), scripts=("swagger-ui-bundle.js", "swagger-start.js")
)
REDOC = _page("Paddock API reference", styles=("pages.css",), scripts=("redoc.standalone.js", "redoc-start.js"))


async def _swagger() -> HTMLResponse:
    return HTMLResponse(SWAGGER, headers=HEADERS)


async def _redoc() -> HTMLResponse:
    return HTMLResponse(REDOC, headers=HEADERS)


def install(app: FastAPI) -> None:
    app.mount(ASSETS, StaticFiles(directory=OWN, packages=[("fastapi_offline", "static")]), name="assets")
    app.add_api_route("/docs", _swagger, include_in_schema=False, methods=["GET"])
    app.add_api_route("/redoc", _redoc, include_in_schema=False, methods=["GET"])

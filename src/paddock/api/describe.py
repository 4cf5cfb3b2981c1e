"""How a route says in OpenAPI what it takes and answers, by the structs of the contracts."""

from __future__ import annotations

from typing import Any


def schema_of(kind: type) -> dict[str, Any]:
    """A reference to the struct's schema; a mapping is any object."""
    return {"type": "object"} if kind is dict else {"$ref": f"#/components/schemas/{kind.__name__}"}


def answer(kind: type, text: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """For `responses=`."""
    return {status: {"description": text, "content": {"application/json": {"schema": schema_of(kind)}}}}


def takes(kind: type, example: Any, *, required: bool = True) -> dict[str, Any]:
    """For `openapi_extra=`: the body, with an example that can be sent as it is."""
    content = {"application/json": {"schema": schema_of(kind), "example": example}}
    return {"requestBody": {"required": required, "content": content}}

"""From manifest text to frozen specs; every mistake is told with line and column."""

from __future__ import annotations

import msgspec

from paddock.model.fleet import FleetSpec


class ManifestSource(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest as it came: `name` for messages (a file name), `folder` against which its paths are relative."""

    name: str
    text: str
    folder: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All sources together, checked and resolved."""

    fleets: dict[str, FleetSpec]
    warnings: list[str] = []

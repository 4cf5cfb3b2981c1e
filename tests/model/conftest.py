"""Every manifest that these tests read successfully is also held against the published schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jsonschema
import pytest

from paddock.model.errors import Refused
from paddock.model.fleet import FleetSpec
from paddock.model.manifest import Manifest, ManifestSource, load, schema
from paddock.model.yaml_source import Mistakes, parse, plain


def sources_of(texts: tuple[str, ...], folder: str) -> list[ManifestSource]:
    names = ["farm.yaml", "more.yaml", "third.yaml"]
    return [ManifestSource(name=name, text=text, folder=folder) for name, text in zip(names, texts, strict=False)]


@pytest.fixture
def read() -> Callable[..., Manifest]:
    def read(*texts: str, folder: str = "/srv/farm", others: Mapping[str, FleetSpec] | None = None) -> Manifest:
        sources = sources_of(texts, folder)
        manifest = load(sources, others=others)
        for source in sources:
            tree = parse(source, Mistakes())
            assert tree is not None
            jsonschema.Draft202012Validator(schema()).validate(plain(tree))
        return manifest

    return read


@pytest.fixture
def refused() -> Callable[..., str]:
    def refused(*texts: str, folder: str = "/srv/farm", others: Mapping[str, FleetSpec] | None = None) -> str:
        with pytest.raises(Refused) as caught:
            load(sources_of(texts, folder), others=others)
        return caught.value.message

    return refused

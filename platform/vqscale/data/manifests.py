"""The manifest of any corpus: of text, or of labelled examples."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from vqscale import storage
from vqscale.data.labelled.format import LabelledManifest, LabelledShard
from vqscale.data.shards import MANIFEST, Manifest, Shard
from vqscale.data.verify import REMEDY
from vqscale.errors import CorpusError

AnyManifest = Manifest | LabelledManifest


def read_manifest(uri: str) -> AnyManifest:
    """The manifest of the corpus at `uri`; CorpusError where there is none or it is not valid."""
    place = storage.join(uri, MANIFEST)
    if not storage.exists(place):
        raise CorpusError(
            f"corpus: {uri} holds no {MANIFEST}, so it is no corpus. Make one: vqscale data prepare SOURCE --out {uri}"
        )
    content = storage.read_bytes(place)
    kind = LabelledManifest if _task(content) else Manifest
    try:
        manifest: AnyManifest = kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CorpusError(f"corpus: {place} is damaged at {field or 'its start'}: {first['msg']}. {REMEDY}") from error
    if manifest.fingerprint != manifest.content_fingerprint():
        raise CorpusError(f"corpus: {place} is damaged: its fingerprint does not match its content. {REMEDY}")
    return manifest


def all_shards(manifest: AnyManifest) -> Iterator[Shard | LabelledShard]:
    for record in manifest.splits.values():
        yield from record.shards


def _task(content: bytes) -> Any:
    """The field that only manifests of labelled examples have; None where there is none, or no readable JSON."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value.get("task") if isinstance(value, dict) else None

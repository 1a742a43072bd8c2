"""Compressors on the held-out text, as the report reads them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vqscale.formatting import short_count
from vqscale.results.references import Level, References, references_of

KnownReferences = dict[str, References]
NOT_READ = "without the training text"


def found_for(references: KnownReferences | None, run: Mapping[Any, Any]) -> References | None:
    """The compressors on the text that a run was evaluated on; None where they were not measured."""
    return references_of(references, run.get("corpus_fingerprint"), run.get("evaluation_text"))


def common(references: KnownReferences | None, runs: pd.DataFrame) -> References | None:
    """Those on the one text that all runs were evaluated on; None where there are several."""
    columns = [name for name in ("corpus_fingerprint", "evaluation_text") if name in runs]
    if "corpus_fingerprint" not in columns or len(runs[columns].drop_duplicates()) != 1:
        return None
    return found_for(references, runs[columns].iloc[0].to_dict())


def fair(found: References | None) -> list[Level]:
    """What a model may be compared with, the lowest first: compressors that have read the training text, too, on the
    very text that the model was evaluated on.
    """
    levels = [] if found is None else [one for one in found.levels if one.training_bytes and one.text == "evaluated"]
    return sorted(levels, key=lambda one: one.bpb)


def label(level: Level) -> str:
    """The compressor and what it has read before."""
    if level.by == "unigram":
        return f"{level.name} of this text itself"
    return f"{level.name} {after(level)}"


def after(level: Level) -> str:
    return f"after {size(level.training_bytes)} of training text" if level.training_bytes else NOT_READ


def text_of(found: References, level: Level) -> str:
    """Bytes and documents of the text that was compressed."""
    if level.text == "split":
        return f"held-out split, {_counted(found.split_bytes, found.split_documents)}"
    return f"as evaluated, {_counted(found.evaluated_bytes, found.evaluated_documents)}"


def size(count: int | None) -> str:
    """Bytes in three digits: 67108864 -> '67.1 MB'."""
    text = short_count(count)
    return f"{text[:-1]} {text[-1]}B" if text[-1:].isalpha() else f"{text} B"


def _counted(count: int | None, documents: int | None) -> str:
    if documents is None:
        return size(count)
    return f"{size(count)} in {documents:,} document{'' if documents == 1 else 's'}"

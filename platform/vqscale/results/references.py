"""What general-purpose compressors make of a study's held-out text: `references.json`, by text.

A model has read the training text before it is evaluated. A compressor that has not ("cold") is no baseline for it; one
that has, as far as its window reaches, is.
"""

import math
from typing import Any, Literal

from pydantic import Field, ValidationError

from vqscale.results.own_files import first_fault
from vqscale.study.frozen import Frozen

Compressor = Literal["unigram", "gzip", "xz", "ppmd"]
NAMES: dict[Compressor, str] = {"unigram": "unigram entropy", "gzip": "gzip -9", "xz": "xz -9", "ppmd": "PPMd"}
_OLD_KEYS: dict[str, Compressor] = {"unigram_bpb": "unigram", "gzip_bpb": "gzip", "xz_bpb": "xz"}


class Level(Frozen):
    """Bits per byte of one compressor on one text."""

    by: Compressor
    text: Literal["evaluated", "split"]
    """evaluated: exactly what the trials were evaluated on. split: the held-out split."""
    training_bytes: int = Field(ge=0)
    """The last bytes of the training text, which the compressor has read before; 0: none."""
    bpb: float = Field(gt=0, allow_inf_nan=False)

    @property
    def name(self) -> str:
        return NAMES[self.by]


class References(Frozen):
    """The compressors on the text of one corpus and one way of evaluating."""

    evaluation_text: str
    """`TrainConfig.evaluation_text`."""
    evaluated_bytes: int = Field(gt=0)
    evaluated_documents: int | None = None
    split_bytes: int | None = None
    """Bytes of the held-out split that were compressed: all, or its first ones."""
    split_documents: int | None = None
    training_bytes: int | None = None
    """Of the whole training text."""
    read_bytes: int | None = None
    """That the longest run of the study had read of it."""
    levels: list[Level]
    settings: dict[Compressor, str] = Field(default_factory=dict)
    """Version and settings of each compressor."""


def parse_references(content: dict[str, Any]) -> dict[str, References]:
    """The content of the file, by `FINGERPRINT/TEXT`, FINGERPRINT being the first 12 digits of the corpus's.

    Files of earlier versions hold the first tokens of the split, by compressors that had read nothing. Raises
    ValueError that says what is wrong.
    """
    return {key: _old(key, value) if _is_old(value) else _new(key, value) for key, value in content.items()}


def references_of(known: dict[str, References] | None, fingerprint: object, text: object) -> References | None:
    """Those of the text that a run was evaluated on; without a known text, as in old tables, of the corpus's start.

    `fingerprint`, `text`: the run's `corpus_fingerprint` and `evaluation_text`.
    """
    for key, found in (known or {}).items():
        same = found.evaluation_text == text if isinstance(text, str) else found.evaluation_text.startswith("start")
        if same and isinstance(fingerprint, str) and fingerprint.startswith(key.split("/")[0]):
            return found
    return None


def _is_old(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and "levels" not in value


def _old(key: str, value: dict[str, Any]) -> References:
    """Bits per byte by name, of the first tokens, whose number is in the key, by compressors that had read nothing."""
    if not all(type(one) in (int, float) and math.isfinite(one) for one in value.values()):
        raise ValueError(f"{key} holds no numbers")
    tokens = key.rsplit("/", 1)[-1]
    levels = [
        {"by": by, "text": "evaluated", "training_bytes": 0, "bpb": value[name]}
        for name, by in _OLD_KEYS.items()
        if name in value
    ]
    return _new(key, {"evaluation_text": f"start {tokens}", "evaluated_bytes": value.get("bytes"), "levels": levels})


def _new(key: str, value: Any) -> References:
    try:
        return References.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{key}: {first_fault(error)}") from error

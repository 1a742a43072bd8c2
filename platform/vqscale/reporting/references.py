"""Entropy and compressors on the held-out text, as the report reads them."""

from collections.abc import Mapping

import pandas as pd

from vqscale.reporting.charts.style import present

References = Mapping[str, Mapping[str, float]]
"""By held-out text, `FINGERPRINT/TOKENS` (the first 12 digits of the corpus's fingerprint): bits per byte by key."""

NAMES = {"unigram_bpb": "unigram entropy", "gzip_bpb": "gzip -9", "xz_bpb": "xz -9"}


def levels(references: References | None, fingerprint: object) -> dict[str, float]:
    """Name -> bits per byte for the text of the corpus with this fingerprint; empty where it was not measured."""
    if not references or not present(fingerprint):
        return {}
    for text, values in references.items():
        if str(fingerprint).startswith(text.split("/")[0]):
            return {name: values[key] for key, name in NAMES.items() if key in values}
    return {}


def only_levels(references: References | None, runs: pd.DataFrame) -> dict[str, float]:
    """The levels of the one text that all runs were evaluated on; empty where there are several."""
    if "corpus_fingerprint" not in runs or runs["corpus_fingerprint"].nunique() != 1:
        return {}
    return levels(references, runs["corpus_fingerprint"].iloc[0])

"""What counts as N and as C: a convention of the analysis, applied to the counts in the table.

Conventions move exponents at small scale, where embeddings and head are a large part of all parameters: Porian et al.
2024 (arXiv 2406.19146) find a = .84 or .71 without or with the head's FLOPs, and Pearce & Song 2024 (arXiv 2406.12907)
reconcile Kaplan's .73 with Chinchilla's .50 that way. No convention is right; only like is comparable with like.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Convention
from vqscale.results.result import CODEBOOK_GROUPS, EMBEDDING_GROUPS

if TYPE_CHECKING:
    import pandas as pd

N_DESCRIPTIONS = {
    "non_embedding": "N without embeddings and codebooks",
    "total": "N with embeddings, without codebooks",
    "non_embedding_codebooks": "N without embeddings, with codebooks",
    "total_codebooks": "N with embeddings and codebooks",
}
C_DESCRIPTIONS = {"exact": "C counted exactly", "6nd": "C = 6ND"}
_COLUMNS = {"non_embedding": "parameters_non_embedding", "total": "parameters"}
"""Column of the count in a table without groups."""


def every_convention() -> list[Convention]:
    """All eight, the default first."""
    kinds = {name: get_args(field.annotation) for name, field in Convention.model_fields.items()}
    return [Convention(parameters=n, flops=c) for c in kinds["flops"] for n in kinds["parameters"]]


def describe_convention(convention: Convention) -> str:
    return f"{N_DESCRIPTIONS[convention.parameters]}; {C_DESCRIPTIONS[convention.flops]}"


def parameters_under(table: "pd.DataFrame", convention: Convention) -> Array:
    """N of every row, as float; NaN where the row has no count.

    Codebooks are running means, not trained by gradient: only a convention with `_codebooks` counts them.
    """
    kind = convention.parameters
    if "parameter_groups" in table:
        counts = [_sum_of_groups(groups, kind) for groups in table["parameter_groups"]]
        if not np.all(np.isnan(counts)):
            return np.array(counts, dtype=np.float64)
    column = _COLUMNS.get(kind)
    if column is None or column not in table:
        needed = "column parameter_groups" + (f" or {column}" if column else "")
        raise FitError(f"{N_DESCRIPTIONS[kind]}: the table has no {needed}, from which it would follow")
    return table[column].to_numpy(dtype=np.float64, na_value=np.nan)


def flops_under(table: "pd.DataFrame", convention: Convention, n_R: Array) -> Array:
    """C of every row, in float: 6ND of a large run does not fit into 64-bit integers."""
    column = "flops" if convention.flops == "exact" else "tokens"
    if column not in table:
        raise FitError(f"{C_DESCRIPTIONS[convention.flops]}: the table has no column {column}")
    values_R = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return values_R if convention.flops == "exact" else 6.0 * n_R * values_R


def _sum_of_groups(groups: Any, kind: str) -> float:
    if not isinstance(groups, Mapping) or not groups:
        return float("nan")
    # Names of conventions: `total` holds embeddings, the suffix `codebooks` the codebooks.
    left_out = set() if kind.startswith("total") else set(EMBEDDING_GROUPS)
    if not kind.endswith("codebooks"):
        left_out |= set(CODEBOOK_GROUPS)
    return float(sum(float(count) for group, count in groups.items() if group not in left_out and count is not None))

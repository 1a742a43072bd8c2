"""What is needed to reproduce a scaling law, filled in from the records (after Li et al. 2025, arXiv 2502.18969)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vqscale.laws import StudyFits
from vqscale.laws.fit import AGREE_SHARE
from vqscale.laws.record import Method
from vqscale.report.style import count, present

_UNKNOWN = "not in the table"


def checklist(table: pd.DataFrame, fits: StudyFits, study: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of question and answer. An answer that the records do not hold says so."""
    return [
        ("Form", _joined({f"{fit.law}: {fit.form}" for fit in fits.fits}) or "no law was fitted"),
        ("What was fitted", _joined({f"{fit.metric} in {fit.unit}" for fit in fits.fits}) or "nothing"),
        (
            "N, D, C",
            f"N = {_n_column(fits)}; D = training tokens; C = training FLOPs counted exactly, not 6ND",
        ),
        ("Sizes N", _range(table, "parameters_non_embedding")),
        ("Horizons D", _range(table, "tokens")),
        ("Codebooks, contexts", f"S: {_values(table, 'codebook_size')}; T: {_values(table, 'context')}"),
        ("Seeds", _values(table, "seed")),
        ("Data", f"{_values(table, 'corpus')} (fingerprint {_values(table, 'corpus_fingerprint')})"),
        ("Recipe", f"lr {_values(table, 'lr')}; batch {_values(table, 'batch_tokens')} tokens; {_recipe(study)}"),
        (
            "Precision, engine",
            f"{_values(table, 'precision')}; {_values(table, 'engine')}, ZeRO {_values(table, 'zero')}",
        ),
        ("Devices", f"{_values(table, 'device')}; workers {_values(table, 'workers')}"),
        ("Which checkpoints", "the last of every finished run: the learning-rate schedule ends at its horizon"),
        ("Excluded", f"{len(fits.excluded)} runs, listed above with reasons"),
        ("Objective", _joined({_objective(fit.method) for fit in fits.fits}) or "no law was fitted"),
        ("Optimiser", _optimiser(fits)),
        ("Uncertainty", _uncertainty(fits)),
        ("Hold-out", "fit on the smaller runs, predict the largest; chosen as the hold-out table says"),
        ("Raw points", f"results.parquet and results.csv beside this page; data hash {_hashes(fits)}"),
        ("Versions", _versions(table, fits)),
        ("Commit", _values(table, "git")),
    ]


def _objective(method: Method) -> str:
    return method.objective if method.delta is None else f"{method.objective}, delta {method.delta:g}"


def _optimiser(fits: StudyFits) -> str:
    if not fits.fits:
        return "no law was fitted"
    worst = min((fit.method for fit in fits.fits), key=lambda method: method.starts_agreeing / method.starts)
    return (
        f"{worst.solver}; cross-checked by {worst.cross_check.solver if worst.cross_check else 'nothing'}; "
        f"accepted by the decrease still in reach, not by the optimiser's word. At least {worst.starts_agreeing} of "
        f"{worst.starts} starts agree in every fit ({AGREE_SHARE:.0%} required)"
    )


def _uncertainty(fits: StudyFits) -> str:
    refits = {fit.bootstrap for fit in fits.fits}
    if not refits - {0}:
        return "no intervals were asked for"
    seeds = _joined({str(fit.bootstrap_seed) for fit in fits.fits})
    return f"percentile intervals of {max(refits)} refits of resampled runs (seed {seeds})"


def _n_column(fits: StudyFits) -> str:
    columns = {axis for fit in fits.fits for axis, letter in zip(fit.axes, fit.letters, strict=True) if letter == "N"}
    return _joined(columns).replace("_", " ") or "not used"


def _recipe(study: Mapping[str, Any]) -> str:
    train = study.get("train")
    if not isinstance(train, Mapping):
        return "schedule not in the records"
    known = [f"{key} {value}" for key, value in train.items() if key not in ("lr", "batch_tokens", "seeds", "tokens")]
    return ", ".join(known)


def _versions(table: pd.DataFrame, fits: StudyFits) -> str:
    found: dict[str, set[str]] = {}
    records = list(table["versions"]) if "versions" in table else []
    for record in [*records, *(fit.versions for fit in fits.fits)]:
        for name, value in record.items() if isinstance(record, dict) else ():
            found.setdefault(name, set()).add(value)
    return ", ".join(f"{name} {'/'.join(sorted(values))}" for name, values in sorted(found.items())) or _UNKNOWN


def _hashes(fits: StudyFits) -> str:
    return _joined({fit.data_hash[:12] for fit in fits.fits}) or "none"


def _range(table: pd.DataFrame, column: str) -> str:
    if column not in table or table[column].isna().all():
        return _UNKNOWN
    values = table[column].dropna()
    return f"{values.nunique()} from {count(float(values.min()))} to {count(float(values.max()))}"


def _values(table: pd.DataFrame, column: str) -> str:
    if column not in table:
        return _UNKNOWN
    known = sorted({value for value in table[column] if present(value)})
    return ", ".join(f"{value:g}" if isinstance(value, int | float) else str(value) for value in known) or "none"


def _joined(values: set[str]) -> str:
    return "; ".join(sorted(values))

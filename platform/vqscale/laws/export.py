"""Fits as files: `fits.json` holds everything, `fits.csv` one row a fitted constant."""

import io

import pandas as pd
from pydantic import ValidationError

from vqscale import storage
from vqscale.errors import StorageError
from vqscale.laws.record import Fit, StudyFits

COLUMNS = (
    "fit", "law", "subset", "form", "metric", "unit", "constant", "value", "low90", "high90", "low95", "high95",
    "n_runs", "r2_fit", "r2_holdout", "holdout_relative_error", "data_hash",
)  # fmt: skip


def write_fits(fits: StudyFits, folder: str) -> list[str]:
    """Write `fits.json` and `fits.csv` under `folder`; returns their URIs."""
    uris = [storage.join(folder, "fits.json"), storage.join(folder, "fits.csv")]
    storage.write_text(uris[0], fits.model_dump_json(indent=1) + "\n")
    storage.write_text(uris[1], to_csv(fits))
    return uris


def read_fits(folder: str) -> StudyFits:
    """What `write_fits` wrote. Raises StorageError where it is missing or damaged."""
    uri = storage.join(folder, "fits.json")
    if not storage.exists(uri):
        raise StorageError(f"{uri}: no fits yet. Run `vqscale fit {folder}` first.")
    try:
        return StudyFits.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        raise StorageError(f"{uri}: not a file of fits ({error.error_count()} wrong values). Fit again.") from error


def to_csv(fits: StudyFits) -> str:
    rows = [row for fit in fits.fits for row in _rows(fit)]
    buffer = io.StringIO()
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(buffer, index=False)
    return buffer.getvalue()


def _rows(fit: Fit) -> list[dict[str, object]]:
    shared = {
        "fit": fit.id,
        "law": fit.law,
        "subset": fit.label,
        "form": fit.form,
        "metric": fit.metric,
        "unit": fit.unit,
        "n_runs": fit.n_runs,
        "r2_fit": fit.r2_fit,
        "r2_holdout": fit.r2_holdout,
        "holdout_relative_error": fit.holdout.mean_relative_error,
        "data_hash": fit.data_hash,
    }
    limits = {name: interval.model_dump() for name, interval in fit.intervals.items()}
    return [
        shared | {"constant": name, "value": value} | limits.get(name, {})
        for name, value in (fit.parameters | fit.derived).items()
    ]

"""Fits as files: `fits.json` holds everything, the others one row per fitted constant or optimum.

Every constant carries the id of its fit, the hash of its table and the versions that made it, in every format.
"""

import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vqscale import storage
from vqscale.errors import StorageError
from vqscale.laws.io.schema import Estimate, Fit, Interval, StudyFits
from vqscale.laws.validation.marks import marks_of
from vqscale.results.own_files import read_model, replace_text

if TYPE_CHECKING:
    import pandas as pd

CONSTANT_COLUMNS = (
    "fit", "law", "subset", "form", "metric", "unit", "constant", "cost", "budget", "value", "low90", "high90", "low95",
    "high95", "n_runs", "r2_fit", "r2_holdout", "holdout_relative_error", "data_hash", "versions", "marks",
)  # fmt: skip
_FLOAT_COLUMNS = (
    "budget",
    "value",
    "low90",
    "high90",
    "low95",
    "high95",
    "r2_fit",
    "r2_holdout",
    "holdout_relative_error",
)


def write_fits(fits: StudyFits, folder: str) -> list[str]:
    """Write `fits.json` and `fits.csv` under `folder`; returns their URIs."""
    uris = [storage.join(folder, "fits.json"), storage.join(folder, "fits.csv")]
    replace_text(uris[0], to_json(fits))
    replace_text(uris[1], to_csv(fits))
    return uris


def read_fits(folder: str, command: str | None = None) -> StudyFits:
    """The fits that `write_fits` wrote, or an earlier version of it. `command`: what writes them, for the message.

    Raises StorageError where the file is missing or damaged.
    """
    uri = storage.join(folder, "fits.json")
    if not storage.exists(uri):
        raise StorageError(f"{uri}: no fits yet. Run `{command or f'vqscale fit {folder}'}` first.")
    found = read_model(uri, StudyFits, f"Run `{command or f'vqscale fit {folder}'}` again.")
    # An earlier version wrote no marks: they follow from the numbers that it did write.
    fits = [
        fit if "marks" in fit.model_fields_set else fit.model_copy(update={"marks": marks_of(fit)})
        for fit in found.fits
    ]
    return found.model_copy(update={"fits": fits})


def fit_provenance(fit: Fit) -> str:
    """The fit and the data that a constant rests on, in one line."""
    return f"fit {fit.id}, table sha256 {fit.data_hash}, {versions_of(fit)}"


def versions_of(fit: Fit) -> str:
    return ", ".join(f"{package} {version}" for package, version in fit.versions.items())


def constant_rows(fits: StudyFits) -> "pd.DataFrame":
    """A row for every fitted constant, derived exponent and optimum of every fit.

    `cost` and `budget` are set where the constant belongs to one count of FLOPs, or to one budget of it.
    """
    import pandas as pd

    return pd.DataFrame([row for fit in fits.fits for row in _rows(fit)], columns=list(CONSTANT_COLUMNS))


def to_json(fits: StudyFits) -> str:
    return fits.model_dump_json(indent=1) + "\n"


def to_csv(fits: StudyFits) -> str:
    buffer = io.StringIO()
    constant_rows(fits).to_csv(buffer, index=False)
    return buffer.getvalue()


def to_parquet(fits: StudyFits) -> bytes:
    buffer = io.BytesIO()
    # Without any fit the columns would be objects, which Parquet refuses.
    constant_rows(fits).astype(dict.fromkeys(_FLOAT_COLUMNS, "float64")).to_parquet(buffer, index=False)
    return buffer.getvalue()


def json_schema() -> str:
    """The JSON Schema of `fits.json`, as docs/reference/fits.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | StudyFits.model_json_schema()
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _rows(fit: Fit) -> Iterator[dict[str, object]]:
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
        "versions": versions_of(fit),
        "marks": "; ".join(fit.marks),
    }
    for name, value in (fit.parameters | fit.derived).items():
        yield shared | {"constant": name, "value": value} | _limits(fit.intervals.get(name))
    for name, cost, budget, estimate in _optima(fit):
        own = {"constant": name, "cost": cost, "budget": budget, "value": estimate.value}
        yield shared | own | _limits(estimate.interval)


def _optima(fit: Fit) -> Iterator[tuple[str, str, float | None, Estimate]]:
    """Exponents of every frontier, and its optimum at each budget."""
    for frontier in fit.frontiers:
        yield "a", frontier.cost, None, frontier.a
        yield "b", frontier.cost, None, frontier.b
        for one in frontier.optima:
            for name, estimate in (("N*", one.parameters), ("D*", one.tokens), ("L*", one.loss)):
                yield name, frontier.cost, one.flops, estimate


def _limits(interval: Interval | None) -> dict[str, float]:
    return interval.model_dump() if interval else {}

"""Pre-registered predictions: written before a run exists, scored once it has finished.

They lie in `predictions.json` in a study's folder, a file that only ever grows. A prediction names the fit and the data
that it rests on: what was known when it was made.
"""

import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.errors import FitError
from vqscale.laws.fitting.bootstrap import interval
from vqscale.laws.fitting.run_filter import names_of, split_table
from vqscale.laws.forms.catalogue import Array, general_form
from vqscale.laws.io.schema import Estimate, Fit, LossUnit, Where
from vqscale.results.own_files import read_model, replace_text
from vqscale.study.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd

PREDICTIONS_FILE = "predictions.json"
REMEDY = (
    "It is not a file of predictions as it is, and they cannot be made again after their runs: restore it from a copy,"
    " or move it away to go without them."
)
SAME_RUN = 0.01
"""Relative distance of N, D, S and T below which two runs without an id are the same."""
NOISE_DRAWS = 20
"""Residuals drawn for every refit of the law: 200 refits give 4,000 values, steady percentiles at 2.5 %."""
_COLUMNS = {"N": "parameters_non_embedding", "D": "tokens", "S": "codebook_size", "T": "context", "C": "flops"}


class Prediction(Frozen):
    """The prediction of a fit for one run, made before the run existed."""

    trial_id: str | None
    """The run's identity, where it is planned as a trial."""
    name: str
    x: dict[str, float]
    """Letter -> value, at least the axes of the law."""
    columns: dict[str, str]
    """Letter -> column of the table that holds it."""
    where: Where
    """The subset of the table that was fitted."""
    fit: str
    law: str
    form: str
    label: str
    metric: str
    unit: LossUnit
    data_hash: str
    versions: dict[str, str]
    registered_at: str
    """ISO 8601 with time zone."""
    predicted: Estimate
    """With a prediction interval of the run's own loss: uncertainty of the law and scatter of runs about it."""
    marks: list[str] = Field(default_factory=list)
    """Reasons not to decide by the fit, as they were when it was registered."""


class PredictionScore(Frozen):
    """A prediction beside the run that it was made for."""

    prediction: Prediction
    run: str
    """Name of the run in the table."""
    before_start: bool | None
    """Whether it was registered before the run's start; None where the table has no start."""
    measured: float
    relative_error: float
    """(predicted - measured) / measured."""
    inside_90: bool | None
    """None where the prediction had no interval."""
    inside_95: bool | None


class PredictionRegistry(Frozen):
    predictions: list[Prediction] = Field(default_factory=list)


def predict_run(
    fit: Fit,
    x: Mapping[str, float],
    *,
    name: str,
    trial_id: str | None = None,
    now: datetime.datetime | None = None,
) -> Prediction:
    """The prediction of `fit` for a run at `x` (letter -> value).

    Raises FitError where an axis of the law has no value.
    """
    if missing := [letter for letter in fit.letters if letter not in x]:
        raise FitError(f"{name}: {missing[0]} is missing; {fit.form} needs {', '.join(fit.letters)}")
    own = dict(zip(fit.letters, fit.axes, strict=True))
    return Prediction(
        trial_id=trial_id,
        name=name,
        x=dict(x),
        columns={letter: own.get(letter, _COLUMNS.get(letter, letter)) for letter in x},
        where=fit.where,
        fit=fit.id,
        law=fit.law,
        form=fit.form,
        label=fit.label,
        metric=fit.metric,
        unit=fit.unit,
        data_hash=fit.data_hash,
        versions=fit.versions,
        registered_at=now.isoformat(timespec="seconds") if now else utc_now(),
        predicted=predicted_loss(fit, x),
        marks=fit.marks,
    )


def predicted_loss(fit: Fit, x: Mapping[str, float], seed: int = 0) -> Estimate:
    """The loss of a new run at `x`, with a prediction interval: of a run, not only of the law.

    To every refit's prediction, residuals of the fit are added, drawn at random and widened for the degrees of freedom
    that the law took. Without refits there is no interval.
    """
    names = list(fit.parameters)
    rows_BP = np.array([list(fit.parameters.values()), *fit.draws], dtype=np.float64)
    law_B = _losses(fit, names, rows_BP, x)  # row 0 is the fit, the others its refits
    if len(law_B) == 1:
        return Estimate(value=float(law_B[0]))
    residual_R = np.array([point.residual for point in fit.points])
    free = len(residual_R) - len(names)
    if free <= 0:
        return Estimate(value=float(law_B[0]))
    # Residuals of P fitted parameters are smaller than the errors, by sqrt((R - P) / R) in standard deviation.
    widened_R = residual_R * np.sqrt(len(residual_R) / free)
    noise = np.random.default_rng(seed).choice(widened_R, (len(law_B) - 1, NOISE_DRAWS))
    return Estimate(value=float(law_B[0]), interval=interval((law_B[1:, None] * np.exp(-noise)).ravel()))


def register(folder: str, predictions: Sequence[Prediction], table: "pd.DataFrame") -> str:
    """Append to the folder's registry; returns its URI.

    Raises FitError where a run is in the table already, with any status, or where the same fit has a prediction for it
    already; nothing is written then.
    """
    known, runs = read_predictions(folder), _Runs(table)
    with_id = {(one.trial_id, one.fit) for one in known if one.trial_id is not None}
    without_id = [one for one in known if one.trial_id is None]
    for prediction in predictions:
        if (run := runs.of(prediction)) is not None:
            raise FitError(
                f"{prediction.name}: the table already holds this run ({runs.names[run]}); a prediction is "
                "registered before its run. Compare with the hold-out of the fit instead."
            )
        others = without_id if prediction.trial_id is None else []
        if (prediction.trial_id, prediction.fit) in with_id or any(
            _same(prediction, other) and prediction.fit == other.fit for other in others
        ):
            raise FitError(f"{prediction.name}: fit {prediction.fit} has a registered prediction for it already")
    uri = storage.join(folder, PREDICTIONS_FILE)
    everything = PredictionRegistry(predictions=[*known, *predictions])
    replace_text(uri, everything.model_dump_json(indent=1) + "\n")
    return uri


def read_predictions(folder: str) -> list[Prediction]:
    """All registered predictions, oldest first; none where the folder has no registry.

    Raises StorageError for a damaged file.
    """
    uri = storage.join(folder, PREDICTIONS_FILE)
    if not storage.exists(uri):
        return []
    return read_model(uri, PredictionRegistry, REMEDY).predictions


def score_predictions(predictions: Sequence[Prediction], table: "pd.DataFrame") -> list[PredictionScore]:
    """Every prediction whose run has finished, beside what was measured; the others are pending."""
    found, runs = [], _Runs(table)
    for prediction in predictions:
        row = runs.of(prediction)
        if row is None or not _finished(table, row) or prediction.metric not in table:
            continue
        measured = float(table[prediction.metric].iloc[row])
        if np.isfinite(measured) and measured > 0:
            found.append(_scored(prediction, runs.names[row], measured, _started(table, row)))
    return found


def _scored(prediction: Prediction, run: str, measured: float, started: datetime.datetime | None) -> PredictionScore:
    limits = prediction.predicted.interval
    return PredictionScore(
        prediction=prediction,
        run=run,
        before_start=None if started is None else datetime.datetime.fromisoformat(prediction.registered_at) <= started,
        measured=measured,
        relative_error=(prediction.predicted.value - measured) / measured,
        inside_90=None if limits is None else limits.low90 <= measured <= limits.high90,
        inside_95=None if limits is None else limits.low95 <= measured <= limits.high95,
    )


def _losses(fit: Fit, names: Sequence[str], rows_BP: Array, x: Mapping[str, float]) -> Array:
    if (general := general_form(fit)) is not None:
        return general.losses(rows_BP, np.array([[x[letter] for letter in fit.letters]]))[:, 0]
    column = {name: rows_BP[:, index] for index, name in enumerate(names)}
    total_B = column["E"].copy()
    for term in fit.terms:
        power_B = sum(column[exponent] * np.log(x[letter]) for letter, exponent in term.powers.items())
        total_B += column[term.coefficient] * np.exp(-power_B)
    return total_B


class _Runs:
    """The rows of a table, looked up once for all predictions."""

    def __init__(self, table: "pd.DataFrame") -> None:
        self._table = table

    @functools.cached_property
    def names(self) -> list[str]:
        return names_of(self._table)

    @functools.cached_property
    def _row_of(self) -> dict[str, int]:
        """The first row of every id."""
        ids = list(self._table["trial_id"])
        return {trial: row for row, trial in reversed(list(enumerate(ids)))}

    def of(self, prediction: Prediction) -> int | None:
        """Row of the prediction's run: by its id, where both have one, otherwise by its axes."""
        if prediction.trial_id is not None and "trial_id" in self._table:
            return self._row_of.get(prediction.trial_id)
        return _like(prediction, self._table)


def _like(prediction: Prediction, table: "pd.DataFrame") -> int | None:
    """The first row with the axes of the prediction."""
    near = np.zeros(len(table), dtype=bool)
    for where, rows in split_table(table.reset_index(drop=True), list(prediction.where)):
        if where.items() <= prediction.where.items():
            near[rows.index.to_numpy()] = True
    for letter, column in prediction.columns.items():
        if column not in table:
            return None
        values = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
        near &= np.abs(values / prediction.x[letter] - 1) <= SAME_RUN
    found = np.flatnonzero(near)
    return int(found[0]) if len(found) else None


def _same(first: Prediction, second: Prediction) -> bool:
    """Whether two predictions without an id are of the same run."""
    shared = first.x.keys() & second.x.keys()
    return bool(shared) and all(abs(first.x[key] / second.x[key] - 1) <= SAME_RUN for key in shared)


def _finished(table: "pd.DataFrame", row: int) -> bool:
    return "status" not in table or bool(table["status"].iloc[row] == "finished")


def _started(table: "pd.DataFrame", row: int) -> datetime.datetime | None:
    """Start of the run, with its time zone; None where the table has none."""
    text = table["started_at"].iloc[row] if "started_at" in table else None
    try:
        found = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None

"""The runs of a target, of its own or from elsewhere: as an analysis begins, and as its fits were made."""

import io
from collections.abc import Sequence

import pandas as pd

from vqscale import storage
from vqscale.laws import read_fits
from vqscale.results import Target, convert_table, read_table
from vqscale.results.foreign import Runs, TableReading, read_runs
from vqscale.results.foreign.options import rename_columns
from vqscale.results.foreign.reading import CELL_PROBLEMS, SOURCE_ROW
from vqscale.sweep.events import StudyEvents


def runs_of(
    place: Target,
    *,
    columns: Sequence[str] = (),
    units: Sequence[str] = (),
    metric: str | None = None,
    n_column: str | None = None,
) -> Runs:
    """The runs of a study's table, or of one from elsewhere with its columns recognised. As `read_runs` otherwise."""
    if place.study is not None and not units:
        return Runs(table=rename_columns(read_table(place.table), columns))
    return read_runs(place.table, columns=columns, units=units, metric=metric, n_column=n_column)


def fitted_table(place: Target) -> pd.DataFrame:
    """The table of a target as its fits have read it: with the columns and units that `vqscale fit` was told."""
    stored = storage.exists(storage.join(place.folder, "fits.json"))
    reading = read_fits(place.folder).reading if stored else None
    if reading is None:
        return runs_of(place).table
    return runs_of(
        place,
        columns=reading.column_options,
        units=reading.unit_options,
        metric=reading.metric,
        n_column=reading.n_column,
    ).table


def copy_runs(place: Target, uri: str) -> None:
    """Write the runs to `uri` (.parquet or .csv): a study's table as it is, one from elsewhere as it was read."""
    if place.study is not None:
        convert_table(place.table, uri)
        return
    table = fitted_table(place)
    if SOURCE_ROW not in table:
        convert_table(place.table, uri)
        return
    table = table.drop(columns=CELL_PROBLEMS)
    buffer = io.BytesIO()
    if uri.endswith(".csv"):
        table.to_csv(buffer, index=False)
    else:
        # A column of numbers and text has no type in Parquet.
        text = {str(name): table[name].map(str, na_action="ignore") for name in table if table[name].dtype == object}
        table.assign(**text).to_parquet(buffer, index=False)
    storage.write_bytes(uri, buffer.getvalue())


def report_reading(reading: TableReading | None, name: str, events: StudyEvents) -> None:
    """Say what was made of a table from elsewhere; of a study's own there is nothing to say."""
    if reading is None:
        return
    events.message(f"{name}: {reading.rows} rows. {reading.describe() or 'No column is recognised'}")
    for note in reading.notes:
        events.message(f"note: {note}", "warning")

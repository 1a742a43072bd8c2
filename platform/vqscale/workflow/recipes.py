"""The learning rate of every size, fitted to a sweep and written as a recipe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from vqscale import storage
from vqscale.errors import FitError
from vqscale.laws.recipe_law import COLUMN_OF, fit_recipe
from vqscale.results import locate
from vqscale.study.recipe import Recipe, RecipeLetter
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.tables import report_reading, runs_of


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What to fit; None leaves it to the sweep."""

    metric: str | None = None
    columns: Sequence[str] = ()
    """NAME=YOUR_COLUMN, for a table with other names."""
    units: Sequence[str] = ()
    """NAME=UNIT of N, D or C: k, M, B, T or a number."""
    group: Mapping[str, str] = field(default_factory=dict)
    """Column -> value of the rows to take."""
    letters: str | None = None
    """Of what the rate is a power: N, D, C or N,D."""
    batch_letters: str | None = None
    """Of what the batch is a power."""


def recipe_of(target: str, options: RecipeOptions, *, out: str | None = None, events: StudyEvents) -> Recipe:
    """Fit the best learning rate from the sweep in `target`; written to `out` where any rule has a law.

    Raises FitError for a table without such a sweep.
    """
    place = locate(target)
    runs = runs_of(place, columns=options.columns, units=options.units, metric=options.metric)
    report_reading(runs.reading, place.name, events)
    name = place.study.study if place.study else place.name
    try:
        found = fit_recipe(
            runs.table,
            study=name,
            metric=options.metric,
            group=options.group,
            letters=letters_of(options.letters, "--in"),
            batch_letters=letters_of(options.batch_letters, "--batch-in"),
        )
    except FitError as error:
        raise FitError(f"{target}: {error}") from error
    if out is not None and any(rule.lr is not None for rule in found.rules):
        # By way of JSON, so that the file holds plain numbers and texts only.
        values = json.loads(found.model_dump_json())
        storage.write_text(out, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return found


def letters_of(text: str | None, option: str) -> tuple[RecipeLetter, ...] | None:
    """The letters of `N,D`. Raises FitError for others."""
    if text is None:
        return None
    named = [part.strip().upper() for part in text.split(",")]
    found = tuple(letter for letter in COLUMN_OF if letter in named)
    if len(found) != len(named) or len(found) > 2 or ("C" in found and len(found) > 1):
        raise FitError(f"{option} {text}: write N, D, C or N,D")
    return found

"""The learning rate of every size, fitted to a sweep and written as a recipe."""

from vqscale import storage
from vqscale.errors import FitError
from vqscale.laws.recipe_law import fit_recipe
from vqscale.results import locate
from vqscale.study.recipe import Recipe
from vqscale.study.yaml_file import dumped
from vqscale.workflow.tables import runs_of


def recipe_of(target: str, *, out: str | None = None, metric: str | None = None, columns: list[str]) -> Recipe:
    """Fit the best learning rate by size from the sweep in `target`; written to `out` where any rule has a law.

    `columns`: NAME=YOUR_COLUMN, for a table with other names. Raises FitError for a table without such a sweep.
    """
    place = locate(target)
    table = runs_of(place, columns=columns, metric=metric).table
    name = place.study.study if place.study else place.name
    try:
        found = fit_recipe(table, study=name, metric=metric)
    except FitError as error:
        raise FitError(f"{target}: {error}") from error
    if out is not None and any(rule.lr is not None for rule in found.rules):
        storage.write_text(out, dumped(found.model_dump(mode="json")))
    return found

"""`vqscale recipe`: the learning rate of every size, from a sweep."""

from typing import Annotated

import typer

from vqscale.cli.console import make_console, print_written
from vqscale.errors import FitError


def recipe(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a .csv or .parquet table of runs.")],
    out: Annotated[
        str | None, typer.Option(help="File or URI (.yaml) for the recipe; without it, none is written.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Column to minimise. Default: bpb where complete, else loss.")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="NAME=YOUR_COLUMN, for a table with other names.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the recipe as JSON.")] = False,
) -> None:
    """Fit the best learning rate as a power law of the size, from a sweep over train.lr at several sizes.

    Example: vqscale recipe runs/books-lr --out recipe.yaml
    """
    from vqscale.cli.recipe_view import print_recipe
    from vqscale.workflow.recipes import recipe_of

    found = recipe_of(target, out=out, metric=metric, columns=column or [])
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_recipe(found, make_console())
    if all(rule.lr is None for rule in found.rules):
        raise FitError(f"{target}: no architecture has a law. {found.rules[0].name}: {found.rules[0].refused}")
    if out is not None and not as_json:
        print_written([out])

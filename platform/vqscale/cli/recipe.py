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
    unit: Annotated[
        list[str] | None, typer.Option(help="NAME=UNIT of N, D or C in a table from elsewhere: k, M, B, T or a number.")
    ] = None,
    group: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE of the rows to take, repeatable.")] = None,
    powers_of: Annotated[
        str | None,
        typer.Option("--in", help="Of what the rate is a power: N, D, C or N,D. Default: N,D where both vary, else N."),
    ] = None,
    batch_in: Annotated[str | None, typer.Option(help="The same of the batch. Default: as the rate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the recipe as JSON.")] = False,
) -> None:
    """Fit the best learning rate as a power law of the size, from a sweep over train.lr at several sizes.

    Where sizes were tuned at several token budgets, the law is one in N and D.

    Example: vqscale recipe runs/books-lr --out recipe.yaml

    Example: vqscale recipe published.csv --column lr=peak_lr --in C --group optimizer=adamw
    """
    from vqscale.cli.messages import Messages
    from vqscale.cli.recipe_view import print_recipe
    from vqscale.workflow.queries import named_values
    from vqscale.workflow.recipes import RecipeOptions, recipe_of

    options = RecipeOptions(
        metric=metric,
        columns=column or [],
        units=unit or [],
        group=named_values(group),
        letters=powers_of,
        batch_letters=batch_in,
    )
    found = recipe_of(target, options, out=out, events=Messages(make_console(stderr=as_json)))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_recipe(found, make_console())
    if all(rule.lr is None for rule in found.rules):
        raise FitError(f"{target}: no architecture has a law. {found.rules[0].name}: {found.rules[0].refused}")
    if out is not None and not as_json:
        print_written([out])

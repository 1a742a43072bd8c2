"""`vqscale recipe`: the learning rate of every size, from a sweep."""

from typing import Annotated

import typer
import yaml
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vqscale import storage
from vqscale.cli.console import make_console
from vqscale.cli.fit import rename
from vqscale.errors import FitError
from vqscale.laws.recipe_law import fit_recipe
from vqscale.plan.recipe import formula
from vqscale.results import locate, read_table
from vqscale.study.recipe import Recipe, RecipeReference, RecipeRule
from vqscale.study.trial import short_count


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
    place = locate(target)
    table = rename(read_table(place.table), column or [])
    name = place.study.study if place.study else place.table.rsplit("/", 1)[-1]
    try:
        found = fit_recipe(table, study=name, metric=metric)
    except FitError as error:
        raise FitError(f"{target}: {error}") from error
    usable = any(rule.lr is not None for rule in found.rules)
    if out is not None and usable:
        storage.write_text(out, yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_recipe(found, make_console())
    if not usable:
        raise FitError(f"{target}: no architecture has a law. {found.rules[0].name}: {found.rules[0].refused}")
    if out is not None and not as_json:
        make_console().print(f"wrote {escape(out)}", soft_wrap=True)


def print_recipe(found: Recipe, console: Console) -> None:
    """A table and a line for every rule, with the refusals."""
    for rule in found.rules:
        console.print(_sizes(rule, found.metric))
        for one in rule.references:
            if one.refused:
                console.print(f"[yellow]refused[/yellow] N = {short_count(one.parameters)}: {escape(one.refused)}")
        for name, law in (("lr", rule.lr), ("batch", rule.batch_tokens)):
            if law is not None:
                spread = "" if law.residual is None else f", residual {law.residual:.1%}"
                sizes = f"{law.sizes} sizes, {short_count(law.smallest)} to {short_count(law.largest)}"
                console.print(f"{rule.name}: {name} = {formula(law)}, {sizes}{spread}", markup=False)
        if rule.refused:
            console.print(f"[yellow]refused[/yellow] {rule.name}: {escape(rule.refused)}")


def _sizes(rule: RecipeRule, metric: str) -> Table:
    table = Table(title=rule.name, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for title in ("size", "N", "D/N", "batch", f"rates tried ({metric})", "best", "on the line"):
        table.add_column(title, justify="left" if title in ("size", f"rates tried ({metric})") else "right")
    for one in rule.references:
        best = "refused" if one.best is None else f"{one.best:.4g}"
        line = "" if rule.lr is None or one.refused else f"{rule.lr.at(one.parameters):.4g}"
        size, n, horizon = one.preset or "", short_count(one.parameters), f"{one.tokens_per_parameter:.3g}"
        table.add_row(size, n, horizon, str(one.batch_tokens), _tried(one), best, line)
    return table


def _tried(one: RecipeReference) -> str:
    pairs = zip(one.rates, one.losses, strict=True)
    return "  ".join(f"{rate:g} ({'diverged' if loss is None else f'{loss:.4f}'})" for rate, loss in pairs)

"""A recipe as a table in a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from vqscale.cli.console import styled
from vqscale.formatting import short_count
from vqscale.planning.recipe import formula
from vqscale.study.recipe import Recipe, RecipeReference, RecipeRule


def print_recipe(found: Recipe, console: Console) -> None:
    """A table and a line for every rule, with the refusals."""
    for rule in found.rules:
        console.print(_sizes(rule, found.metric))
        for one in rule.references:
            if one.refused:
                console.print(styled("[yellow]refused[/yellow] N = {}: {}", short_count(one.parameters), one.refused))
        for name, law in (("lr", rule.lr), ("batch", rule.batch_tokens)):
            if law is not None:
                spread = "" if law.residual is None else f", residual {law.residual:.1%}"
                sizes = f"{law.sizes} sizes, {short_count(law.smallest)} to {short_count(law.largest)}"
                console.print(f"{rule.name}: {name} = {formula(law)}, {sizes}{spread}")
        if rule.refused:
            console.print(styled("[yellow]refused[/yellow] {}: {}", rule.name, rule.refused))


def _sizes(rule: RecipeRule, metric: str) -> Table:
    table = Table(title=rule.name, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for title in ("size", "N", "D/N", "batch", f"rates tried ({metric})", "best", "on the line"):
        table.add_column(title, justify="left" if title in ("size", f"rates tried ({metric})") else "right")
    for one in rule.references:
        best = "refused" if one.best is None else f"{one.best:.4g}"
        line = "" if rule.lr is None or one.refused else f"{rule.lr.at(one.parameters):.4g}"
        size, n, ratio = one.preset or "", short_count(one.parameters), f"{one.tokens_per_parameter:.3g}"
        table.add_row(size, n, ratio, str(one.batch_tokens), _tried(one), best, line)
    return table


def _tried(one: RecipeReference) -> str:
    pairs = zip(one.rates, one.losses, strict=True)
    return "  ".join(f"{rate:g} ({'diverged' if loss is None else f'{loss:.4f}'})" for rate, loss in pairs)

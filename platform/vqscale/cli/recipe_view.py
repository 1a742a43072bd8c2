"""A recipe as a table in a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from vqscale.cli.console import styled
from vqscale.formatting import short_count
from vqscale.planning.recipe import formula
from vqscale.study.recipe import Recipe, RecipeLaw, RecipeReference, RecipeRule


def print_recipe(found: Recipe, console: Console) -> None:
    """A table and a line for every rule, with the refusals."""
    for rule in found.rules:
        console.print(_sizes(rule, found.metric))
        for one in rule.references:
            if one.refused:
                console.print(styled("[yellow]refused[/yellow] {}: {}", _place(one), one.refused))
        for name, law in (("lr", rule.lr), ("batch", rule.batch_tokens)):
            if law is not None:
                spread = "" if law.residual is None else f", residual {law.residual:.1%}"
                console.print(f"{rule.name}: {name} = {formula(law)}, {_tuned_at(law)}{spread}", markup=False)
        if rule.batch_refused:
            console.print(styled("[yellow]refused[/yellow] {}: batch: {}", rule.name, rule.batch_refused))
        if rule.refused:
            console.print(styled("[yellow]refused[/yellow] {}: {}", rule.name, rule.refused))


def _tuned_at(law: RecipeLaw) -> str:
    """How many points the law rests on, and from where to where they are."""
    count = f"{law.sizes} sizes" if law.points == law.sizes else f"{law.points} points"
    spans = [
        f"{letter} {short_count(power.smallest)} to {short_count(power.largest)}"
        for letter, power in law.powers.items()
    ]
    return f"{count}, {', '.join(spans)}"


def _sizes(rule: RecipeRule, metric: str) -> Table:
    table = Table(title=rule.name, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for title in ("size", "N", "D/N", "batch", f"rates tried ({metric})", "best", "by the law"):
        table.add_column(title, justify="left" if title in ("size", f"rates tried ({metric})") else "right")
    for one in rule.references:
        best = "refused" if one.best is None else f"{one.best:.4g}"
        line = "" if rule.lr is None or one.refused else f"{rule.lr.at(one.point):.4g}"
        ratio = "" if one.tokens_per_parameter is None else f"{one.tokens_per_parameter:.3g}"
        batch = "" if one.batch_tokens is None else str(one.batch_tokens)
        table.add_row(one.preset or "", short_count(one.parameters), ratio, batch, _tried(one), best, line)
    return table


def _place(one: RecipeReference) -> str:
    """Which point of the sweep."""
    tokens = "" if one.tokens is None else f", D = {short_count(one.tokens)}"
    return f"N = {short_count(one.parameters)}{tokens}"


def _tried(one: RecipeReference) -> str:
    pairs = zip(one.rates, one.losses, strict=True)
    return "  ".join(f"{rate:g} ({'diverged' if loss is None else f'{loss:.4f}'})" for rate, loss in pairs)

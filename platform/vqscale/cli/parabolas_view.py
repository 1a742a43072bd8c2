"""What isoFLOP parabolas answer, for people in a terminal: vertices, and N*(C) in place of a refused law."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from vqscale.cli.console import styled
from vqscale.cli.fit_view import beyond_the_data, plain_table, short, with_distance, with_exponent, with_interval
from vqscale.laws.decisions.parabolas import ParabolaResult
from vqscale.laws.io.schema import Estimate, IsoflopParabolas


def print_in_place_of_laws(found: Sequence[IsoflopParabolas], console: Console) -> None:
    """A table for every subset whose law in N and D is refused: the vertex and the line at every budget."""
    for one in found:
        if one.in_place_of is None or one.a is None or one.b is None:
            continue
        exponents = f"N* ~ C^{with_exponent(one.a)}, D* ~ C^{with_exponent(one.b)}"
        table = plain_table(f"{one.label}: N*(C) by isoFLOP parabolas, as the law is refused; {exponents}")
        for column in ("C (FLOPs)", "vertex N", "N* (line)", "D* (line)", "D*/N*", "loss"):
            table.add_column(column, justify="right", no_wrap=True)
        vertices = {row.budget: row.vertex for row in one.rows if row.vertex is not None}
        for best in one.optima:
            vertex = vertices.get(best.flops)
            table.add_row(
                with_distance(f"{best.flops:.4g}", best.beyond),
                with_interval(vertex, short) if vertex else Text("none tried"),
                *(with_interval(each, short) for each in (best.parameters, best.tokens, best.tokens_per_parameter)),
                "" if best.loss is None else f"{best.loss:.4f}",
            )
        console.print(table)
        for budget, reason in one.refused.items():
            console.print(styled("[yellow]refused[/yellow] no optimum at C = {}: {}", f"{float(budget):.4g}", reason))


def print_parabola_answers(answers: Sequence[ParabolaResult], console: Console) -> None:
    """The best division of a budget for every subset whose law is refused."""
    table = plain_table(
        "The best configuration by isoFLOP parabolas, as the law is refused; 90 % intervals (scatter alone) of the line"
    )
    for column in ("runs of", "C (FLOPs)", "N*", "D*", "D*/N*", "loss", "beyond the data"):
        table.add_column(column)
    for one in answers:
        best = one.optimum
        counts = (best.parameters, best.tokens, best.tokens_per_parameter)
        loss = "no law says it" if best.loss is None else f"{best.loss:.4f} {one.unit}"
        budget = f"{best.flops:.4g}"
        table.add_row(
            one.label, budget, *(with_interval(each, short) for each in counts), loss, beyond_the_data(best.beyond)
        )
    console.print(table)
    for one in answers:
        console.print(f"note {one.label}: no law in N and D is fitted: {one.in_place_of}", markup=False)


def beside_the_law(parabolas: Estimate | None) -> str | Text:
    """N* by the line through the vertices, under a law's."""
    return "no vertices" if parabolas is None else with_interval(parabolas, short)

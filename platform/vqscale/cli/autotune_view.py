"""The choice of a codebook size in a terminal, and as plain JSON values."""

from rich.console import Console
from rich.table import Table

from vqscale.cli.error_view import with_error
from vqscale.workflow.autotune import CodebookChoice


def as_values(choice: CodebookChoice) -> dict[str, object]:
    return {
        "codebook_size": choice.codebook_size,
        "best_codebook_size": choice.best_size,
        "best_bpb": choice.best_bpb,
        "tolerance": choice.tolerance,
        "chance": choice.chance,
        "corpus_fingerprint": choice.corpus_fingerprint,
        "trials": choice.table(),
        "warnings": choice.warnings,
    }


def show(choice: CodebookChoice, console: Console) -> None:
    table = Table(title="codebook sizes", title_justify="left")
    for title in (
        "S",
        "state",
        "bpb held out",
        "above the best",
        "tokens/s",
        "decode memory",
        "codes in use",
        "Pareto",
        "chosen",
    ):
        table.add_column(title, justify="right")
    for row in choice.table():
        table.add_row(
            str(row["codebook_size"]),
            str(row["status"]),
            with_error(row["bpb"], row["bpb_error"], 4),
            "" if row["above_best"] is None else with_error(row["above_best"], row["above_best_error"], 4),
            "-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.0f}",
            "-" if row["decode_state_bytes"] is None else f"{row['decode_state_bytes'] / 2**10:.1f} KiB",
            "-" if row["code_perplexity"] is None else f"{row['code_perplexity']:.1f}",
            "yes" if row["pareto"] else "",
            "<--" if row["chosen"] else "",
        )
    console.print(table)
    for sentence in choice.warnings:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"S = {choice.codebook_size}: the smallest within {choice.tolerance:g} bits per byte of the best"
        f" (S = {choice.best_size}, {choice.best_bpb:.4f} bpb); {choice.chance}.",
        highlight=False,
    )

"""`vqscale autotune`: the codebook size for a corpus."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vqscale import storage
from vqscale.cli.console import make_console
from vqscale.study.spec import load_study
from vqscale.workflow.autotune import CodebookChoice, tuning_study
from vqscale.workflow.autotune import autotune as tune_codebook


def autotune(
    study: Annotated[str, typer.Argument(help="Study file with an `autotune` section.")],
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: one on this machine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the choice as JSON.")] = False,
) -> None:
    """Find the smallest codebook within a tolerance of the best held-out bits per byte.

    Example: vqscale autotune experiments/quickstart/study.yaml
    """
    spec = load_study(study)
    choice = tune_codebook(spec, source=study, address=address, console=make_console(stderr=as_json))
    uri = storage.join(tuning_study(spec).folder, "autotune.json")
    storage.write_json(uri, as_values(choice))
    if as_json:
        print(json.dumps(as_values(choice), indent=2))  # noqa: T201
        return
    show(choice, make_console())
    make_console().print(f"wrote {uri}", soft_wrap=True)


def as_values(choice: CodebookChoice) -> dict[str, object]:
    return {
        "codebook_size": choice.codebook_size,
        "best_codebook_size": choice.best_size,
        "best_bpb": choice.best_bpb,
        "tolerance": choice.tolerance,
        "corpus_fingerprint": choice.corpus_fingerprint,
        "trials": choice.table(),
    }


def show(choice: CodebookChoice, console: Console) -> None:
    table = Table(title="codebook sizes", title_justify="left")
    for title in ("S", "state", "bpb held out", "tokens/s", "decode memory", "codes in use", "Pareto", "chosen"):
        table.add_column(title, justify="right")
    for row in choice.table():
        table.add_row(
            str(row["codebook_size"]),
            str(row["status"]),
            "-" if row["bpb"] is None else f"{row['bpb']:.4f}",
            "-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.0f}",
            f"{row['decode_state_bytes'] / 2**10:.1f} KiB",
            "-" if row["code_perplexity"] is None else f"{row['code_perplexity']:.1f}",
            "yes" if row["pareto"] else "",
            "<--" if row["chosen"] else "",
        )
    console.print(table)
    console.print(
        f"S = {choice.codebook_size}: the smallest within {choice.tolerance:g} bits per byte of the best"
        f" (S = {choice.best_size}, {choice.best_bpb:.4f} bpb).",
        highlight=False,
    )

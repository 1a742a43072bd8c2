"""`vqscale next`: from the fits of a study to the study file of the best run at a budget."""

import json
from typing import Annotated

import typer

from vqscale.cli.console import make_console


def next_command(
    study: Annotated[str, typer.Argument(help="Study folder or study .yaml, trained and fitted.")],
    budget: Annotated[str, typer.Option(help="Training FLOPs (1e13) or money in the study's currency (50usd).")],
    arch: Annotated[str | None, typer.Option(help="Architecture. Default: the one of lowest predicted loss.")] = None,
    law: Annotated[str | None, typer.Option(help="Law. Default: the first that was fitted in N and D.")] = None,
    context: Annotated[int | None, typer.Option(help="Context length T.")] = None,
    codebook: Annotated[int | None, typer.Option(help="Codebook size S.")] = None,
    beyond: Annotated[
        bool, typer.Option("--beyond", help="Also for a budget more than 100 times outside the runs; marked.")
    ] = False,
    out: Annotated[str, typer.Option(help="Study file to write; an existing one is not replaced.")] = "next.yaml",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write the study file of the best run at a budget, and register the loss that is predicted for it.

    Example: vqscale next runs/quickstart --budget 1e13 --out next.yaml
    """
    from vqscale.workflow.next_run import write_next_study
    from vqscale.workflow.queries import Selection

    selection = Selection(law=law, arch=arch, context=context, codebook=codebook)
    done = write_next_study(study, budget, selection, out=out, beyond=beyond)
    made = done.made.study
    if as_json:
        shown = {"file": out, "study": made.study, "folder": made.folder, "notes": done.made.notes}
        shown |= {"extrapolation": done.extrapolation, "marks": done.marks}
        typer.echo(json.dumps(shown | {"prediction": done.prediction.model_dump(mode="json")}, indent=2))
        return
    console = make_console()
    console.print(done.header.replace("# ", "").rstrip(), markup=False)
    console.print(f"wrote {out}; the prediction is registered in {made.folder}", markup=False, soft_wrap=True)

"""`vqscale autotune`: the codebook size for a corpus."""

import json
from typing import Annotated

import typer

from vqscale.cli.console import make_console, print_written
from vqscale.cli.signals import terminated_as_interrupted


def autotune(
    study: Annotated[str, typer.Argument(help="Study file or study folder, with an `autotune` section.")],
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: one on this machine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the choice as JSON.")] = False,
) -> None:
    """Find the smallest codebook within a tolerance of the best held-out bits per byte.

    Example: vqscale autotune experiments/quickstart/study.yaml
    """
    from vqscale import storage
    from vqscale.cli.autotune_view import as_values, show
    from vqscale.cli.live_table import LiveTable
    from vqscale.study.places import open_study
    from vqscale.workflow.autotune import tune_codebook, tuning_study

    spec = open_study(study)
    with terminated_as_interrupted():
        choice = tune_codebook(spec, source=study, address=address, events=LiveTable(make_console(stderr=as_json)))
    uri = storage.join(tuning_study(spec).folder, "autotune.json")
    storage.write_json(uri, as_values(choice))
    if as_json:
        print(json.dumps(as_values(choice), indent=2))  # noqa: T201
        return
    show(choice, make_console())
    print_written([uri])

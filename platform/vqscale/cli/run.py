"""`vqscale run`: a study from its file to its report."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqscale.cli.console import make_console
from vqscale.cli.signals import terminated_as_interrupted
from vqscale.errors import WorkFailedError

if TYPE_CHECKING:
    from vqscale.workflow.study import StudyRun


def run(
    study: Annotated[str, typer.Argument(help="Study file or study folder.")],
    address: Annotated[str | None, typer.Option(help="Ray cluster, such as auto. Default: one made here.")] = None,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Leave out finished trials that the file no longer describes.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results and fits as JSON, the rest to stderr.")
    ] = False,
) -> None:
    """Train what is not trained yet, then fit, measure and report. Run it again at any time: nothing is done twice.

    A study of kind throughput trains nothing: it is measured here, as by `vqscale throughput`.

    Example: vqscale run experiments/quickstart/study.yaml
    """
    from vqscale.study.places import open_any
    from vqscale.study.throughput_study import ThroughputStudy

    started = time.monotonic()
    spec = open_any(study)
    if isinstance(spec, ThroughputStudy):
        from vqscale.cli.throughput_view import run_and_show

        run_and_show(spec, spec.folder, spec.tracking.uri, source=study, as_json=as_json)
        return
    from vqscale.cli.live_table import last_line
    from vqscale.cli.run_view import RunView, print_places, print_time
    from vqscale.workflow.study import run_study

    console = make_console(stderr=as_json)
    with terminated_as_interrupted(), RunView(console) as view:
        outcome = run_study(spec, source=study, address=address, allow_changed=allow_changed, events=view)
    print_places(spec, console)
    print_time(outcome.training, time.monotonic() - started, console)
    if as_json:
        print(json.dumps(as_values(outcome), indent=2))  # noqa: T201
    if failed := outcome.training.failed:
        names = [f"{result.name}: {last_line(result.error or '')}" for result in failed]
        raise WorkFailedError(f"{len(names)} of {len(outcome.results)} trials failed:\n" + "\n".join(names))


def as_values(outcome: "StudyRun") -> dict[str, Any]:
    """A study's outcome as plain JSON values."""
    return {
        "study": outcome.study.study,
        "folder": outcome.study.folder,
        "trained_now": outcome.training.trained_now,
        "results": [result.model_dump(mode="json") for result in outcome.results],
        "fits": outcome.fits.model_dump(mode="json"),
    }

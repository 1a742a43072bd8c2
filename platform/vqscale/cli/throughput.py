"""`vqscale throughput`: training speed, memory, cost and break-even against quadratic baselines, over T."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqscale.errors import StudyError

if TYPE_CHECKING:
    from vqscale.study.throughput_study import ThroughputStudy

DEFAULT_FOLDER = "runs/throughput"


def throughput(
    study: Annotated[
        str | None,
        typer.Argument(
            help="Study file or folder: of kind throughput, or one that trains, with its `throughput` section."
        ),
    ] = None,
    contexts: Annotated[str | None, typer.Option(help="Context lengths, with commas. Default: 256,1024,4096.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architectures, with commas. Default: VQ and both baselines.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Sizes, with commas. Default: micro.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens of one update at every T. Default: 4096.")] = None,
    batch: Annotated[str | None, typer.Option(help="Sequences of one update at every T, in place of --tokens.")] = None,
    head: Annotated[str | None, typer.Option(help="shga, mqa or mha, with commas. Default: shga.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, with commas. Default: fp32.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, with commas. Default: auto.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Timed repeats. Default: 5.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU. Default: all.")] = None,
    seconds_per_cell: Annotated[
        float | None,
        typer.Option(help="Fewer repeats where they take longer; one update that does is skipped. Default: 60."),
    ] = None,
    price_per_device_hour: Annotated[float | None, typer.Option(help="For the cost of a billion tokens.")] = None,
    currency: Annotated[str | None, typer.Option(help="Of the price. Default: USD.")] = None,
    watts: Annotated[float | None, typer.Option(help="Power of the device, where it has no energy counter.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URI of the results. Default: the study's folder.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow store. Default: the study's, else none.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again even if nothing has changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure training speed, memory, cost and break-even of VQ against both quadratic baselines at equal parameters.

    What is measured already is not measured again; a run that was stopped resumes. Options win over the study's file.

    Example: vqscale throughput experiments/throughput/study.yaml

    Example: vqscale throughput --preset micro --contexts 256,1024,4096 --repeats 5 --out runs/speed
    """
    from vqscale import storage
    from vqscale.cli.throughput_view import run_and_show
    from vqscale.throughput.request import with_options

    numbers = {"context": contexts, "tokens_per_step": tokens, "batch": batch}
    words = {"arch": arch, "preset": preset, "head": head, "precision": precision, "device": device}
    axes = {key: _numbers(key, text) for key, text in numbers.items() if text is not None}
    axes |= {key: [part.strip() for part in text.split(",")] for key, text in words.items() if text is not None}
    values = {"repeats": repeats, "threads": threads, "seconds_per_cell": seconds_per_cell, "currency": currency}
    values |= {"price_per_device_hour": price_per_device_hour, "watts": watts}
    known, trains = _study(study)
    asked = with_options(known, axes, {key: value for key, value in values.items() if value is not None})
    folder = storage.absolute(out) if out else asked.folder if study else storage.absolute(DEFAULT_FOLDER)
    uri = tracking or (asked.tracking.uri if study else None)
    run_and_show(
        asked, folder, uri, source=study or "options", own_page=bool(out) or not trains, again=again, as_json=as_json
    )


def _study(path: str | None) -> "tuple[ThroughputStudy, bool]":
    """What a file asks for, and whether it is a study that trains (whose folder holds a page of its own)."""
    from vqscale.study.places import open_any
    from vqscale.study.throughput_study import ThroughputStudy
    from vqscale.throughput.request import default_study, study_of_section

    if path is None:
        return default_study(), False
    found = open_any(path)
    if isinstance(found, ThroughputStudy):
        return found, False
    return study_of_section(found, found.throughput), True


def _numbers(key: str, text: str) -> list[Any]:
    option = {"context": "--contexts", "tokens_per_step": "--tokens"}.get(key, f"--{key}")
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise StudyError(f"{option} {text!r}: is no list of whole numbers. Write 256,1024,4096.") from error

"""`vqscale submit | status | logs | stop`: studies as jobs of a Ray cluster, and the state of a study's folder."""

import dataclasses
import json
import time
from typing import Annotated

import typer

from vqscale.cli.console import make_console
from vqscale.errors import ClusterError, WorkFailedError
from vqscale.formatting import duration

Address = Annotated[
    str, typer.Option(help="The cluster's dashboard: http://HOST:8265.", envvar="RAY_API_SERVER_ADDRESS")
]
Token = Annotated[
    str | None, typer.Option(help="The cluster's token; else RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.")
]
Target = Annotated[str, typer.Argument(help="The id that `submit` printed, or the study file.")]
Place = Annotated[
    str, typer.Argument(help="Study file, study folder or a folder of studies; with --address the id of a job.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(
    study: Annotated[str, typer.Argument(help="Study file or study folder.")],
    address: Address,
    token: Token = None,
    shared_storage: Annotated[
        bool, typer.Option("--shared-storage", help="Local paths in the study are the same folder on every node.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Submit a study once more whose job has ended; finished trials are kept.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study as a Ray Job on a cluster; it continues when this machine is switched off.

    Example: vqscale submit study.yaml --address http://head:8265
    """
    from vqscale.submit import jobs

    done = jobs.submit(study, address, token=token, shared_storage=shared_storage, again=again)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done), indent=2))
        return
    typer.echo(f"submitted  {done.id}")
    typer.echo(f"uploaded   {done.upload_files} files, {done.upload_bytes / 1024:,.0f} KiB (platform and study)")
    typer.echo(f"watch it   vqscale logs {done.id} --address {done.address} --follow")


def status(
    target: Place,
    address: Annotated[str | None, typer.Option(help="The cluster's dashboard. None: the study's folder.")] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a submitted job, or (without --address) how many trials of a study are finished.

    Example: vqscale status study.yaml

    Example: vqscale status runs
    """
    if address is None:
        _study_status(target, as_json)
        return
    from vqscale.submit import jobs

    state = jobs.status(target, address, token=token)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(state), indent=2))
        return
    spent = (state.ended_at or time.time()) - state.started_at if state.started_at else 0.0
    typer.echo(f"{state.id}: {state.status}, {duration(spent)}" + (f" ({state.message})" if state.message else ""))


def logs(
    target: Target,
    address: Address,
    token: Token = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a job has printed. With --follow the exit code is 1 when the job fails.

    Example: vqscale logs quickstart-1a2b3c4d --address http://head:8265 --follow
    """
    from vqscale.submit import jobs

    pieces = jobs.logs(target, address, token=token, follow=follow)
    if as_json:
        typer.echo(json.dumps({"id": target, "logs": "".join(pieces)}, indent=2))
    else:
        for piece in pieces:
            typer.echo(piece, nl=False)
    if follow and (state := jobs.status(target, address, token=token)).status == "FAILED":
        raise WorkFailedError(f"{state.id}: {state.message}")


def stop(target: Target, address: Address, token: Token = None, as_json: AsJson = False) -> None:
    """Stop a job. What it trained is kept: submit the study again to resume.

    Example: vqscale stop quickstart-1a2b3c4d --address http://head:8265
    """
    from vqscale.submit import jobs

    stopped = jobs.stop(target, address, token=token)
    if as_json:
        typer.echo(json.dumps({"id": target, "stopped": stopped}))
        return
    typer.echo(f"{target}: asked to stop" if stopped else f"{target}: had ended already")


def _study_status(target: str, as_json: bool) -> None:
    from vqscale import storage
    from vqscale.study.places import is_study_file
    from vqscale.workflow.status import states_of

    if not is_study_file(target) and not storage.exists(target):
        raise ClusterError(
            f"{target}: is neither a study file nor a folder here. The state of a job needs --address http://HOST:8265."
        )
    found = states_of(target)
    if as_json:
        values = [
            {
                "study": one.study,
                "folder": one.folder,
                one.unit: one.total,
                "states": one.states,
                "owner": one.owner,
                "damaged": one.damaged,
            }
            for one in found
        ]
        typer.echo(json.dumps(values[0] if len(values) == 1 else values, indent=2))
        return
    console = make_console()
    for one in found:
        console.print(f"{one.study}: {one.total} {one.unit} in {one.folder}", markup=False, soft_wrap=True)
        for state, number in one.states.items():
            console.print(f"  {state:<9} {number}")
        if one.owner is not None:
            console.print(f"  run by    {one.owner}", markup=False, soft_wrap=True)
        for sentence in one.damaged:
            console.print(sentence, style="yellow", markup=False, soft_wrap=True)

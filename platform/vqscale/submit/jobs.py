"""A study as a Ray Job: the platform's packages and the study file are uploaded, and the cluster runs the study.

The job's id is the study's name and a hash of its file, so that the same study is not started twice by mistake.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import requests

from vqscale import storage
from vqscale.errors import ClusterError, StudyError
from vqscale.masking import masked
from vqscale.study.places import open_study, study_file
from vqscale.study.spec import Study
from vqscale.study.yaml_file import dumped
from vqscale.track.store import check_reachable

DASHBOARD_TIMEOUT_SECONDS = 15
ENTRYPOINT = "python -m vqscale run study.yaml --address auto"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
PACKAGES = ("vqscale", "vqkernels")
EXCLUDED = ("__pycache__",)
_UPLOAD_LIMIT = 100 * 2**20
"""Most bytes that a Ray dashboard accepts in one upload."""
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A study that was submitted to a cluster."""

    id: str
    address: str
    upload_files: int
    upload_bytes: int
    """Before compression, and before Ray leaves out what the cluster has already."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What the cluster reports about a job."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    started_at: float | None
    """Seconds since the epoch."""
    ended_at: float | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def submit(
    path: str, address: str, *, token: str | None = None, shared_storage: bool = False, again: bool = False
) -> Submission:
    """Start the study at `path` as a job of the cluster whose dashboard is at `address` (http://HOST:8265).

    `shared_storage`: local paths in the study mean the same on every node. `again`: a study whose job has ended is
    submitted again, under a numbered id; what it has trained is kept.
    Raises StudyError for a study that cannot run there or is submitted already, ClusterError when nothing answers.
    """
    path = study_file(path)
    study = study_for_cluster(open_study(path), source=path, shared=shared_storage or _is_this_machine(address))
    _require_no_password(study, path)
    client = _client(address, token)
    submission_id = _free_id(client, job_id(path), address, again)
    with tempfile.TemporaryDirectory(prefix="vqscale-submit-") as folder:
        working = Path(folder) / "study"
        working.mkdir()
        text = dumped(study.model_dump(mode="json"))
        (working / "study.yaml").write_text(text, encoding="utf-8")
        packages = platform_packages()
        files = [working / "study.yaml", *(path for package in packages for path in package_files(package))]
        size = sum(path.stat().st_size for path in files)
        assert size < _UPLOAD_LIMIT, f"the platform's packages and the study take {size} bytes"
        with _as_cluster_error(address):
            client.submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=submission_id,
                runtime_env={
                    "working_dir": str(working),
                    "py_modules": [str(package) for package in packages],
                    "excludes": list(EXCLUDED),
                },
                metadata={"vqscale.study": study.study},
            )
    return Submission(id=submission_id, address=masked(address), upload_files=len(files), upload_bytes=size)


def platform_packages() -> list[Path]:
    """The folders of the packages that this process imports, so that a cluster runs the code that ran here.

    Ray names what it uploads by a hash of the content, so that a changed file is never mistaken for an older one. An
    editable checkout itself cannot be named: a worker would import whatever its own disk holds there.
    """
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is not importable"
        assert spec.origin is not None, f"{name} is a namespace, not a package"
        found.append(Path(spec.origin).parent)
    return found


def package_files(package: Path) -> list[Path]:
    """The files of a package that are uploaded."""
    return [path for path in package.rglob("*") if path.is_file() and not set(EXCLUDED) & set(path.parts)]


def status(target: str, address: str, *, token: str | None = None) -> JobStatus:
    """The state of a job, given by its id or by the study file that was submitted (then the latest submission)."""
    client = _client(address, token)
    return _info(client, _resolve(client, target), address)


def logs(target: str, address: str, *, token: str | None = None, follow: bool = False) -> Iterator[str]:
    """The output of a job in pieces; with `follow` until it ends."""
    client = _client(address, token)
    submission_id = _resolve(client, target)
    _info(client, submission_id, address)
    with _as_cluster_error(address):
        if follow:
            yield from _followed(client, submission_id)
        else:
            yield client.get_job_logs(submission_id)


def stop(target: str, address: str, *, token: str | None = None) -> bool:
    """Ask a job to stop; False when it had ended already. What it has trained is kept."""
    client = _client(address, token)
    submission_id = _resolve(client, target)
    if _info(client, submission_id, address).ended:
        return False
    with _as_cluster_error(address):
        return bool(client.stop_job(submission_id))


def job_id(path: str) -> str:
    """The id of a study file's first submission: the study's name and 8 hex digits of the file's sha256."""
    digest = hashlib.sha256(storage.read_bytes(path)).hexdigest()
    return f"{open_study(path).study}-{digest[:8]}"


def study_for_cluster(study: Study, *, source: str, shared: bool) -> Study:
    """The study as the cluster will run it, with local paths made absolute.

    Raises StudyError for a local path when the cluster does not share this machine's files.
    """
    local = {
        "storage": study.storage if storage.is_local(study.storage) else None,
        "tracking.uri": str(study.tracking.uri) if study.tracking.uri.scheme == "sqlite" else None,
        "data.corpus": study.data.corpus if _is_local_corpus(study.data.corpus) else None,
    }
    paths = [f"{key}: {value!r}" for key, value in local.items() if value is not None]
    if paths and not shared:
        raise StudyError(
            f"{source}: {' and '.join(paths)} would be a different disk on every node of the cluster. Name an address"
            " that every node reaches (storage: s3://BUCKET/PREFIX, tracking: {uri: http://HOST:5000}), or add"
            " --shared-storage when the path is the same shared folder on every node."
        )
    changes: dict[str, Any] = {}
    if local["storage"] is not None:
        changes["storage"] = storage.absolute(study.storage)
    if local["tracking.uri"] is not None:
        changes["tracking"] = study.tracking.model_copy(update={"uri": check_reachable(study.tracking.uri)})
    if local["data.corpus"] is not None:
        changes["data"] = study.data.model_copy(update={"corpus": storage.absolute(study.data.corpus)})
    return study.model_copy(update=changes)


def _require_no_password(study: Study, source: str) -> None:
    """Raises StudyError for a password that the job's package would hold: it lies in the cluster's store and on the
    disk of every node, where any other job can read it. Environment variables of a job are shown in Ray's dashboard."""
    uri = study.tracking.uri
    if uri.has_password:
        raise StudyError(
            f"{source}: tracking.uri: {uri}: its password would lie on every node of the cluster, in the job's package."
            " Write ${NAME} in its place, and set that environment variable where the cluster's nodes start."
        )


def find_token(token: str | None) -> str | None:
    """The token of a cluster: the one given, else the one that Ray itself would find; None when there is none.

    In Ray's own order: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
    """
    if token or os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return token
    if from_environment := os.environ.get("RAY_AUTH_TOKEN"):
        return from_environment
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if path.is_file():
        return path.read_text().strip()
    if named:
        raise ClusterError(f"RAY_AUTH_TOKEN_PATH: {named} is no file. Name the file that holds the cluster's token.")
    return None


def _is_local_corpus(corpus: str) -> bool:
    return "/" in corpus and storage.is_local(corpus)


def _is_this_machine(address: str) -> bool:
    """Whether the dashboard itself listens on this machine: an ssh tunnel to another one has a local address too."""
    parts = urlsplit(address)
    if parts.hostname not in LOOPBACK:
        return False
    connections = psutil.net_connections("tcp")
    pids = [one.pid for one in connections if one.status == psutil.CONN_LISTEN and one.laddr[1:] == (parts.port,)]
    return any("ray/dashboard/" in word for pid in pids if pid is not None for word in _command_line(pid))


def _command_line(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:  # ended since, or another user's
        return []


def _client(address: str, token: str | None) -> Any:
    """A client of the cluster at `address`, after checking that the cluster answers and accepts the token."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(
            f"--address {address}: is not the address of a Ray dashboard. Give it as http://HOST:8265 (or https://)."
        )
    found = find_token(token)
    headers = {"Authorization": f"Bearer {found}"} if found else {}
    _check_answers(address.rstrip("/"), headers)
    from ray.job_submission import JobSubmissionClient  # takes a second to import; other commands need not wait for it

    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _environment_without(_OVERRIDES), _as_cluster_error(address):
        return JobSubmissionClient(address, headers=headers)


def _check_answers(address: str, headers: dict[str, str]) -> None:
    try:
        answer = requests.get(f"{address}/api/jobs/", headers=headers, timeout=DASHBOARD_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise ClusterError(
            f"--address {address}: no Ray cluster answers there within {DASHBOARD_TIMEOUT_SECONDS} s"
            f" ({type(error).__name__}). Check the address and the port of the dashboard (8265 unless it was changed),"
            " and that it is reachable from here: `ray start --head --dashboard-host=0.0.0.0`, or an ssh tunnel."
        ) from error
    if answer.status_code in (401, 403):
        what = "asks for a token" if answer.status_code == 401 else "rejects this token"
        raise ClusterError(
            f"--address {address}: the cluster {what}. Give the cluster's token with --token, in RAY_AUTH_TOKEN, in a"
            " file named by RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token (`ray get-auth-token` on the head prints it)."
        )
    if answer.status_code != 200:
        raise ClusterError(
            f"--address {address}: answers {answer.status_code} to /api/jobs/: is it the dashboard of a Ray cluster"
            " with ray[default] installed?"
        )


@contextlib.contextmanager
def _environment_without(names: tuple[str, ...]) -> Iterator[None]:
    """Remove variables within the block: Ray lets these override an address that was given explicitly."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextlib.contextmanager
def _as_cluster_error(address: str) -> Iterator[None]:
    """ClusterError in place of the RuntimeError and ConnectionError that Ray's job client raises for any refusal."""
    try:
        yield
    except (RuntimeError, ConnectionError, requests.RequestException) as error:
        text = str(error).strip().splitlines()
        raise ClusterError(f"--address {address}: the cluster refused ({text[-1] if text else error!r})") from error


def _submissions(client: Any, first: str) -> list[str]:
    """Ids of all submissions of a study file, oldest first."""
    known = {job.submission_id for job in client.list_jobs() if job.submission_id}
    ids = [first] if first in known else []
    while (following := f"{first}-{len(ids) + 1}") in known and ids:
        ids.append(following)
    return ids


def _free_id(client: Any, first: str, address: str, again: bool) -> str:
    ids = _submissions(client, first)
    if not ids:
        return first
    state = str(client.get_job_status(ids[-1]).value)
    if state not in ENDED:
        raise StudyError(
            f"{ids[-1]}: this study has already been submitted (status {state}). Watch it:"
            f" vqscale logs {ids[-1]} --address {address} --follow"
        )
    if not again:
        raise StudyError(
            f"{ids[-1]}: this study was already submitted (status {state}). Add --again to submit it again; its"
            " finished trials are kept."
        )
    return f"{first}-{len(ids) + 1}"


def _resolve(client: Any, target: str) -> str:
    """The submission that the user means: an id, or the latest of a study's file or folder."""
    if not storage.exists(target):
        return target
    first = job_id(study_file(target))
    return [first, *_submissions(client, first)][-1]


def _info(client: Any, submission_id: str, address: str) -> JobStatus:
    try:
        info = client.get_job_info(submission_id)
    except RuntimeError as error:
        if "404" in str(error):
            known = [job.submission_id for job in client.list_jobs() if job.submission_id]
            raise ClusterError(
                f"{submission_id}: the cluster at {address} has no such job."
                f" It has: {', '.join(sorted(known)) or 'none'}."
            ) from error
        raise ClusterError(f"{submission_id}: the cluster at {address} refused ({error})") from error
    return JobStatus(
        id=submission_id,
        status=str(info.status.value),
        message=info.message or "",
        started_at=info.start_time / 1000 if info.start_time else None,
        ended_at=info.end_time / 1000 if info.end_time else None,
    )


def _followed(client: Any, submission_id: str) -> Iterator[str]:
    pieces = client.tail_job_logs(submission_id)

    async def following() -> str | None:
        return await anext(pieces, None)

    with asyncio.Runner() as runner:
        while (piece := runner.run(following())) is not None:
            yield piece

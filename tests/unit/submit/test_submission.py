import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from vqscale.address import Address
from vqscale.errors import ClusterError, StudyError
from vqscale.study.spec import load_study, parse_study
from vqscale.submit import jobs
from vqscale.submit.jobs import find_token, job_id, study_for_cluster

STUDY = """
study: tiny
data: {corpus: stdlib}
model: {arch: transformer_vq, preset: pico}
train: {context: 64, tokens: 1e4, batch_tokens: 256, lr: 3e-3, clip: null}
storage: ./runs
"""


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return str(path)


@pytest.fixture
def no_tokens(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """An HTTP server that answers every request with `server.answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = self.server.answer  # type: ignore[attr-defined]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def address(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_job_id_is_the_study_and_a_hash_of_its_file(study_file, tmp_path):
    assert job_id(study_file).startswith("tiny-")
    assert len(job_id(study_file)) == len("tiny-") + 8
    other = tmp_path / "other.yaml"
    other.write_text(STUDY + "question: another?\n")
    assert job_id(str(other)) != job_id(study_file)


def test_submitted_local_paths_to_a_remote_cluster_are_refused_by_name(study_file):
    with pytest.raises(StudyError, match=r"storage: './runs' and tracking.uri: .*--shared-storage"):
        study_for_cluster(load_study(study_file), source=study_file, shared=False)


def test_submitted_sqlite_beside_object_storage_is_refused(study_file):
    study = load_study(study_file).model_copy(update={"storage": "s3://bucket/studies"})
    with pytest.raises(StudyError, match=r"tracking\.uri") as caught:
        study_for_cluster(study, source=study_file, shared=False)
    assert "storage: 's3" not in str(caught.value)


def test_submitted_addresses_of_services_stay_as_they_are(study_file):
    study = load_study(study_file)
    tracking = study.tracking.model_copy(update={"uri": Address("http://mlflow:5000")})
    remote = study.model_copy(update={"storage": "s3://bucket/studies", "tracking": tracking})
    assert study_for_cluster(remote, source=study_file, shared=False) == remote


def test_submitted_shared_paths_become_absolute(study_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = load_study(study_file)
    data = study.data.model_copy(update={"corpus": "corpora/books"})
    moved = study_for_cluster(study.model_copy(update={"data": data}), source=study_file, shared=True)
    assert moved.storage == str(tmp_path / "runs")
    assert moved.tracking.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert moved.data.corpus == str(tmp_path / "corpora/books")


def test_submitted_file_reads_back_as_the_same_study(study_file):
    study = study_for_cluster(load_study(study_file), source=study_file, shared=True)
    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
    assert parse_study(yaml.safe_load(text), source="copy") == study


def test_token_given_wins_over_the_environment(no_tokens, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from-environment")
    assert find_token("given") == "given"
    assert find_token(None) == "from-environment"


def test_token_files_are_read_where_ray_looks_for_them(no_tokens, monkeypatch):
    assert find_token(None) is None
    (no_tokens / ".ray").mkdir()
    (no_tokens / ".ray/auth_token").write_text("default-file\n")
    assert find_token(None) == "default-file"
    named = no_tokens / "named"
    named.write_text("named-file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    assert find_token(None) == "named-file"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert find_token(None) is None


def test_token_file_that_is_missing_is_an_error(no_tokens, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(no_tokens / "absent"))
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH"):
        find_token(None)


def test_status_of_a_silent_cluster_says_where_to_look(no_tokens, server):
    gone = address(server).replace(str(server.server_port), "9")
    with pytest.raises(ClusterError, match="no Ray cluster answers there"):
        jobs.status("tiny-00000000", gone)


@pytest.mark.parametrize("wrong", ["head", "head:8265", "ray://head:10001", "http://"])
def test_status_at_an_address_of_another_kind_says_which_is_right(wrong):
    with pytest.raises(ClusterError, match="http://HOST:8265"):
        jobs.status("tiny-00000000", wrong)


@pytest.mark.parametrize(("answer", "words"), [(401, "asks for a token"), (403, "rejects this token")])
def test_status_without_the_right_token_says_how_to_give_it(no_tokens, server, answer, words):
    server.answer = (answer, b"")
    with pytest.raises(ClusterError, match=f"{words}.*--token.*RAY_AUTH_TOKEN"):
        jobs.status("tiny-00000000", address(server))


def test_status_from_a_server_that_is_not_ray_is_refused(no_tokens, server):
    server.answer = (404, b"")
    with pytest.raises(ClusterError, match=r"answers 404.*dashboard"):
        jobs.status("tiny-00000000", address(server))


def test_submit_through_a_tunnel_is_not_taken_for_a_cluster_on_this_machine(server, study_file):
    server.answer = (200, b"[]")
    with pytest.raises(StudyError, match="--shared-storage"):
        jobs.submit(study_file, address(server))


def test_submit_a_study_that_cannot_run_there_asks_no_cluster(study_file):
    with pytest.raises(StudyError, match="shared"):
        jobs.submit(study_file, "http://cluster.invalid:8265")


def test_submissions_of_a_study_are_found_in_their_order():
    class Client:
        def list_jobs(self):
            names = ["tiny-1", "other", None, "tiny-1-3", "tiny-1-2", "tiny-1-5"]
            return [type("Job", (), {"submission_id": name}) for name in names]

    assert jobs._submissions(Client(), "tiny-1") == ["tiny-1", "tiny-1-2", "tiny-1-3"]
    assert jobs._submissions(Client(), "absent") == []
    assert jobs._resolve(Client(), "tiny-1-2") == "tiny-1-2"


def test_submitting_a_study_that_runs_names_the_command_that_watches_it():

    class Client:
        def list_jobs(self):
            return [SimpleNamespace(submission_id="s-1")]

        def get_job_status(self, _):
            return SimpleNamespace(value="RUNNING")

    with pytest.raises(StudyError, match="vqscale logs s-1 --address http://head:8265 --follow"):
        jobs._free_id(Client(), "s-1", "http://head:8265", False)


class Cluster:
    """A job client that keeps what it is given: everything that Ray's dashboard and its nodes would see."""

    def __init__(self) -> None:
        self.seen = ""

    def list_jobs(self) -> list[object]:
        return []

    def submit_job(self, **request: object) -> None:
        folder = Path(request["runtime_env"]["working_dir"])
        self.seen = repr(request) + "".join(file.read_text() for file in folder.iterdir())


def test_submitted_job_shows_no_password_of_its_study(study_file, monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(jobs, "_client", lambda *_: cluster)
    monkeypatch.setenv("DATABASE_PASSWORD", "CANARY")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "CANARY")
    address = "http://user:CANARY@head:8265"
    written = "tracking:\n  uri: postgresql://mlflow:%s@db/runs\n"
    Path(study_file).write_text(STUDY + written % "CANARY")
    with pytest.raises(StudyError, match=r"\*\*\*@db.*every node.*\$\{NAME\}") as caught:
        jobs.submit(study_file, address, shared_storage=True)
    assert "CANARY" not in str(caught.value)
    assert cluster.seen == ""

    Path(study_file).write_text(STUDY + written % "${DATABASE_PASSWORD}")
    done = jobs.submit(study_file, address, shared_storage=True)
    assert "mlflow:${DATABASE_PASSWORD}@db" in cluster.seen
    assert "CANARY" not in cluster.seen + repr(done)

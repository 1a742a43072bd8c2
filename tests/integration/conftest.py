"""One local Ray cluster for all integration tests that do not bring their own, and studies small enough for it."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import s3fs
from moto.server import ThreadedMotoServer

from vqscale.study.spec import Study, parse_study
from vqscale.sweep.driver import cluster
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.training import TrainingRun, train_study

MakeStudy = Callable[..., Study]


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """An S3-compatible server on loopback with one bucket; its address reaches every process by the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3fs.S3FileSystem().mkdir("studies")
    yield "s3://studies"
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster(object_store: str) -> Iterator[str]:
    """The address of a cluster of two CPUs, whatever the machine has."""
    os.environ.pop("RAY_ADDRESS", None)
    for name, value in {**cluster.ENVIRONMENT, **cluster.LOCAL_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    context = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture
def train(ray_cluster: str) -> Callable[[Study], TrainingRun]:
    """Train a study on the shared cluster, through a driver process of its own."""
    return lambda study: train_study(study, address=ray_cluster, events=StudyEvents())


def small_study(
    corpus_uri: str, folder: Path, name: str = "small", *, train: dict[str, Any] | None = None, **sections: Any
) -> Study:
    recipe = {
        "context": 64, "tokens": 64 * 8 * 12, "batch_tokens": 64 * 8, "lr": 0.01,
    } | ({} if "task" in sections else {"evaluation_tokens": 2048}) | (train or {})  # fmt: skip
    values = {
        "study": name,
        "question": "Does it work?",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
        "train": recipe,
        "run": {"log_every": 2, "checkpoint_every": 4},
        "storage": str(folder / "runs"),
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
    } | sections
    return parse_study(values, source="test")


@pytest.fixture
def make_study(corpus_uri: str, tmp_path: Path) -> MakeStudy:
    """A study of pico models on the small corpus: twelve updates unless a test says otherwise."""
    return functools.partial(small_study, corpus_uri, tmp_path)


@pytest.fixture(scope="session")
def make_study_once(corpus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> MakeStudy:
    """The same in a folder that outlives a test."""
    return functools.partial(small_study, corpus_uri, tmp_path_factory.mktemp("studies"))

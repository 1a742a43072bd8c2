"""Throughput studies without a file of their own: from the `throughput` section of a study that trains, and from
options of the command line."""

from typing import Any

from vqscale.data.corpora import resolve_corpus
from vqscale.data.manifests import read_manifest
from vqscale.errors import StudyError
from vqscale.study.spec import Study, ThroughputSpec
from vqscale.study.throughput_study import ThroughputStudy, parse_throughput

ARCHS = ["transformer_vq", "transformer_full", "transformer"]
DEFAULT_CONTEXTS = [256, 1024, 4096]
DEFAULT_PRESET = "micro"
DEFAULT_TOKENS = 4096


def default_study(name: str = "throughput") -> ThroughputStudy:
    """The study that is measured without any file: VQ and both baselines at three context lengths."""
    return parse_throughput(
        {
            "kind": "throughput",
            "study": name,
            "cell": {"preset": DEFAULT_PRESET, "tokens_per_step": DEFAULT_TOKENS},
            "sweep": [{"arch": ARCHS, "context": DEFAULT_CONTEXTS}],
        },
        source="throughput",
    )


def study_of_section(study: Study, spec: ThroughputSpec | None) -> ThroughputStudy:
    """The throughput study of a study that trains, with that study's head, precision, vocabulary, storage and tracking.

    Raises StudyError or CorpusError.
    """
    if study.task != "language":
        raise StudyError(
            f"task: {study.task}: throughput is measured for language models only. Write a study of `kind: throughput`,"
            " or call vqscale throughput without a study and name --arch, --preset and --contexts."
        )
    contexts, preset = DEFAULT_CONTEXTS, study.model.get("preset", DEFAULT_PRESET)
    cell: dict[str, Any] = {"preset": preset, "tokens_per_step": DEFAULT_TOKENS}
    values: dict[str, Any] = {}
    if spec:
        contexts = spec.contexts
        cell = {"preset": spec.preset, "tokens_per_step": spec.tokens}
        cell |= {"block_length": spec.block_length, "codebook_size": spec.codebook_size}
        values = {"repeats": spec.repeats}
    cell |= {"head": study.model.get("head", "shga"), "precision": study.train.get("precision", "fp32")}
    values |= {
        "kind": "throughput",
        "study": study.study,
        "question": study.question,
        "cell": cell,
        "sweep": [{"arch": ARCHS, "context": contexts}],
        "vocab_size": read_manifest(resolve_corpus(study.data.corpus)).vocab_size,
        "storage": study.storage,
        "tracking": study.tracking.model_dump(),
    }
    return parse_throughput(values, source="throughput")


def with_options(study: ThroughputStudy, axes: dict[str, list[Any]], values: dict[str, Any]) -> ThroughputStudy:
    """The study with options of the command line: an axis replaces its setting in every grid.

    Raises StudyError.
    """
    grids = [{key: given for key, given in grid.items() if not _replaced(key, axes)} | axes for grid in study.sweep]
    cell = {key: value for key, value in study.cell.items() if not _replaced(key, axes)}
    return parse_throughput(study.model_dump() | {"sweep": grids, "cell": cell} | values, source="options")


def _replaced(key: str, axes: dict[str, list[Any]]) -> bool:
    """Whether options replace a setting; tokens and sequences of a step are two ways to set the same thing."""
    ways = {"tokens_per_step", "batch"}
    return key in axes or (key in ways and bool(ways & set(axes)))

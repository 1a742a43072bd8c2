"""One measurement of training speed as a frozen value: what, how and where."""

from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator

from vqscale.bench.machine import device_label
from vqscale.data.corpora import resolve_corpus
from vqscale.data.shards import read_manifest
from vqscale.data.tokenize import BYTE_VOCAB
from vqscale.errors import StudyError
from vqscale.models.presets import resolve
from vqscale.study.fingerprint import fingerprint
from vqscale.study.frozen import Frozen
from vqscale.study.model import Arch, Head, ModelConfig
from vqscale.study.spec import Study, ThroughputSpec, explain
from vqscale.study.trial import Precision


class Request(Frozen):
    """What the study file says of a throughput measurement, and how it is carried out."""

    spec: ThroughputSpec
    head: Head = "shga"
    """Head type of `transformer_vq` and `transformer_full`."""
    precision: Precision = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, gt=0)
    """Threads of the CPU; None: as many as PyTorch takes."""
    vocab_size: int = Field(default=BYTE_VOCAB, gt=0)
    seconds_per_cell: float = Field(default=60.0, gt=0)
    """Timed repeats of one model at one T end once they have taken this long; one is always made."""

    @field_validator("spec")
    @classmethod
    def _contexts_are_lengths(cls, spec: ThroughputSpec) -> ThroughputSpec:
        if wrong := [context for context in spec.contexts if context < 1]:
            raise ValueError(f"contexts: {wrong[0]} is no context length; it must be at least 1")
        return spec

    @field_validator("device")
    @classmethod
    def _device_is_here(cls, device: str) -> str:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("PyTorch sees no GPU here. Use device cpu, or auto.")
        return device

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def thread_count(self) -> int:
        return self.threads or torch.get_num_threads()

    @property
    def fingerprint(self) -> str:
        """Identity of the measurement. Unlike a trial's it holds the device: another machine has another speed."""
        where = {"device": device_label(self.torch_device), "threads": self.thread_count}
        return fingerprint(self.model_dump() | where)

    def model(self, arch: Arch) -> ModelConfig:
        """The model of one architecture. Raises StudyError for an unknown preset or dimensions that do not fit."""
        overrides: dict[str, Any] = {} if arch == "transformer" else {"head": self.head}
        if arch == "transformer_vq":
            chosen = {"codebook_size": self.spec.codebook_size, "block_length": self.spec.block_length}
            overrides |= {key: value for key, value in chosen.items() if value is not None}
        return resolve(arch, self.spec.preset, self.vocab_size, overrides)

    def batch(self, context: int) -> int:
        """Sequences of one update: as many tokens at every T, but at least one sequence."""
        return max(1, self.spec.tokens // context)


def make_request(**values: Any) -> Request:
    """A checked request. Raises StudyError in the user's words."""
    try:
        return Request(**values)
    except ValidationError as error:
        raise StudyError(explain(error, "throughput")) from error


def request_of(study: Study, spec: ThroughputSpec | dict[str, Any], **settings: Any) -> Request:
    """The measurement of a study: head, precision and vocabulary are its own unless `settings` say otherwise.

    Raises StudyError or CorpusError.
    """
    own: dict[str, Any] = {
        "head": study.model.get("head", "shga"),
        "precision": study.train.get("precision", "fp32"),
        "vocab_size": read_manifest(resolve_corpus(study.data.corpus)).vocab_size,
    }
    return make_request(spec=spec, **(own | settings))

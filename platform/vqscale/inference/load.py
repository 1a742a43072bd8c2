"""A trained model from the folder of its trial."""

import json
from dataclasses import dataclass

import safetensors.torch
import torch

from vqscale import storage
from vqscale.data.corpus import open_tokenizer
from vqscale.data.tokenize import Tokenizer
from vqscale.errors import CorpusError, StorageError
from vqscale.inference.score import TextScore, score_tokens
from vqscale.models.base import LanguageModel
from vqscale.models.build import build
from vqscale.results.locate import locate_folder
from vqscale.results.records import RESULT, intact_result, read_result
from vqscale.results.result import Result
from vqscale.study.model import ModelConfig
from vqscale.study.spec import Study

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A trained model in evaluation mode, with what it needs to read text."""

    model: LanguageModel
    config: ModelConfig
    result: Result
    """The record of its trial."""
    tokenizer: Tokenizer | None
    """Of the corpus that it was trained on; None for a classifier, whose examples are tokens already."""
    device: torch.device

    def score(self, text: str | bytes) -> TextScore:
        """How well the model predicts `text`, read as one document of any length.

        Raises CorpusError for a classifier, and where the tokenizer cannot encode the text.
        """
        if self.tokenizer is None:
            raise CorpusError(f"{self.result.name}: is a classifier; it scores no text")
        content = text.encode() if isinstance(text, str) else text
        if not content:
            raise CorpusError("text: is empty; there is no token to predict")
        return score_tokens(self.model, self.tokenizer.encode(content), len(content), self.device)


def load_model(run: str | Study, trial: str | None = None, *, device: str | torch.device = "cpu") -> LoadedModel:
    """The trained model of `run`: a trial's folder, or a study (folder or .yaml) and the name or id of a `trial`.

    Weights are float32, whatever the precision of the training. The tokenizer comes from the corpus of the trial,
    of which no shard is read. Raises StorageError where there is no such trial or it has no weights (it failed,
    diverged or still trains), CorpusError where the corpus is gone.
    """
    folder = trial_folder(run, trial)
    result = read_result(folder)
    uri = storage.join(folder, WEIGHTS)
    if result is None or not storage.exists(uri):
        state = "has no result yet" if result is None else f"is {result.status}"
        raise StorageError(f"{folder}: has no trained weights ({WEIGHTS} is missing; the trial {state}).")
    config, weights = _read_weights(uri)
    model = build(config, seed=0)
    model.load_state_dict(weights)
    where = torch.device(device)
    tokenizer = None if config.classes else open_tokenizer(result.corpus)
    return LoadedModel(model=model.to(where).eval(), config=config, result=result, tokenizer=tokenizer, device=where)


def trial_folder(run: str | Study, trial: str | None) -> str:
    """The folder of a trial: `run` itself, or the trial of that name or id in the study `run`.

    Raises StorageError for a name that the study does not have, or that several of its trials have.
    """
    folder = locate_folder(run)
    trials = storage.join(folder, "trials")
    if trial is not None and storage.exists(storage.join(trials, trial, RESULT)):
        return storage.join(trials, trial)
    if not storage.exists(trials):
        if trial is None and storage.exists(storage.join(folder, RESULT)):
            return folder
        raise StorageError(f"{folder}: is neither a study's folder nor that of a trial with a result.")
    found = {name: intact_result(storage.join(trials, name)) for name in storage.listdir(trials)}
    named = {name: result.name for name, result in found.items() if result is not None}
    matching = [name for name, title in named.items() if trial == title]
    if len(matching) == 1:
        return storage.join(trials, matching[0])
    if trial is None:
        wrong, offered = "is a study; name one of its trials", list(named.values())
    elif matching:
        wrong, offered = f"{len(matching)} trials are named {trial!r}; give an id", matching
    else:
        wrong, offered = f"has no trial {trial!r} with a result", list(named.values())
    raise StorageError(f"{folder}: {wrong}: {', '.join(sorted(offered)) or 'none has a result'}.")


def _read_weights(uri: str) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Configuration and tensors of a weights file. Raises StorageError for a file that is damaged or not ours."""
    content = storage.read_bytes(uri)
    try:
        config = _metadata(content)["config"]
        return ModelConfig.model_validate_json(config), safetensors.torch.load(content)
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise StorageError(f"{uri}: is no model of vqscale, or damaged ({error}). Train the trial again.") from error


def _metadata(content: bytes) -> dict[str, str]:
    """The `__metadata__` of a safetensors file in memory: 8 bytes little-endian length, then a JSON header."""
    size = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + size])
    return header["__metadata__"]

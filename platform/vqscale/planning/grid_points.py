"""One grid point of a study: its settings, and the trial that they make."""

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from vqscale import storage
from vqscale.costing.presets import fields_of_others, resolve
from vqscale.data.corpora import resolve_corpus
from vqscale.data.corpus import open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.errors import StudyError
from vqscale.planning.check import GridPointError, check_evaluation, check_length, check_trial
from vqscale.planning.recipe import with_recipe
from vqscale.planning.task import OWN_SETTINGS, AnyCorpus, check_corpus, check_keys, classifier
from vqscale.study import checks
from vqscale.study.design import Axes
from vqscale.study.model import ModelConfig
from vqscale.study.spec import DataSpec, Study, explain
from vqscale.study.trial import TrainConfig, Trial

GridPoint = dict[str, dict[str, Any]]
"""Settings by section: `model`, `train`, `data`."""


def grid_settings(axes: Axes) -> Iterator[dict[str, Any]]:
    """Every combination of the values of `axes`, by dotted path; for no axes, one empty combination."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def grid_point(study: Study, settings: dict[str, Any]) -> GridPoint:
    """The study's sections, with `settings` (by dotted path) in place of the values there."""
    point: GridPoint = {"model": dict(study.model), "train": dict(study.train), "data": study.data.model_dump()}
    for axis, value in settings.items():
        section, _, key = axis.partition(".")
        point[section][key] = value
    return point


def where(settings: dict[str, Any]) -> str:
    """The settings of a grid point, as the end of a message; empty where it has none."""
    return (
        f" (in the grid point {', '.join(f'{axis} = {settings[axis]}' for axis in sorted(settings))})"
        if settings
        else ""
    )


class Resolver:
    """From grid points to trials; every corpus is opened once. The caller adds file and grid point to messages."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._corpora: dict[str, tuple[str, AnyCorpus]] = {}

    def corpus(self, point: GridPoint) -> tuple[str, AnyCorpus]:
        """Address of the grid point's corpus, and the corpus. Raises StudyError, CorpusError."""
        try:
            name = DataSpec(**point["data"]).corpus
        except ValidationError as error:
            raise StudyError(explain(error, "", prefix="data").removeprefix(": ")) from error
        if name not in self._corpora:
            uri = storage.absolute(resolve_corpus(name))
            corpus = open_corpus(uri)
            check_corpus(self.study.task, name, corpus)
            self._corpora[name] = uri, corpus
        return self._corpora[name]

    @property
    def corpora(self) -> dict[str, AnyCorpus]:
        """All corpora that were opened, by URI."""
        return dict(self._corpora.values())

    def model(self, point: GridPoint, axes: frozenset[str]) -> ModelConfig:
        """The grid point's model with every dimension set; `axes` come from sweep or design. Raises StudyError."""
        model = dict(point["model"])
        arch, preset = model.pop("arch", None), model.pop("preset", None)
        for key, value in (("arch", arch), ("preset", preset)):
            if not isinstance(value, str):
                raise StudyError(
                    f"model.{key}: is missing or is no text; write `model: {{arch: transformer_vq, preset: nano}}`"
                )
        _, corpus = self.corpus(point)
        if not isinstance(corpus, LabelledCorpus):
            return resolve(str(arch), str(preset), corpus.vocab_size, _known_fields(str(arch), axes, model))
        own = {key: model.pop(key) for key in OWN_SETTINGS if key in model}
        settings = _known_fields(str(arch), axes, model)
        return resolve(str(arch), str(preset), corpus.vocab_size, settings, classifier(corpus, own))

    def train(self, point: GridPoint, model: ModelConfig, *, tokens: float | None = None) -> dict[str, Any]:
        """The grid point's `train` settings without seeds, completed by the study's recipe. Raises StudyError.

        `tokens`: what a design asks for, as in `with_recipe`.
        """
        train = {key: value for key, value in point["train"].items() if key != "seeds"}
        check_keys(self.study.task, train)
        recipe = self.study.recipe
        if recipe is None:
            return train
        rule = recipe.rule(model)
        if rule is not None and rule.batch_tokens is not None and "batch_tokens" in self.study.train:
            raise StudyError(
                f"train.batch_tokens: {self.study.train['batch_tokens']!r} is set beside recipe, which sets the"
                f" batch of {rule.name}. Remove it, or set it by an axis train.batch_tokens."
            )
        return with_recipe(recipe, train, model, tokens=tokens)

    def trial(self, point: GridPoint, model: ModelConfig, train: dict[str, Any], seed: int) -> Trial:
        """The checked trial.

        Raises GridPointError for what cannot be trained together, StudyError for other mistakes.
        """
        uri, corpus = self.corpus(point)
        try:
            config = TrainConfig(**train, seed=seed)
        except ValidationError as error:
            message = explain(error, "", prefix="train").removeprefix(": ")
            together = all(issue["type"] == "value_error" and not issue["loc"] for issue in error.errors())
            raise (GridPointError if together else StudyError)(message) from error
        trial = Trial(
            model=model,
            train=config,
            preset=str(point["model"]["preset"]),
            corpus=uri,
            corpus_fingerprint=corpus.fingerprint,
        )
        check_trial(trial, self.study)
        if not isinstance(corpus, LabelledCorpus):
            check_length(trial.train, corpus)
            check_evaluation(train.get("evaluation_tokens"), corpus)
        return trial


def seeds_of(point: GridPoint) -> list[int]:
    """The seeds of a grid point. Raises StudyError for a value that is no list of whole numbers."""
    seeds = point["train"].get("seeds", [0])
    try:
        return checks.seeds(seeds)
    except ValueError as error:
        raise StudyError(f"train.seeds: {error}") from error


def _known_fields(arch: str, axes: frozenset[str], model: dict[str, Any]) -> dict[str, Any]:
    """Settings of the file's `model` section that apply to `arch`.

    A study that compares architectures writes a setting that only some of them have, such as a codebook, once, in the
    section. Grid points of other architectures ignore it, and so do those where an axis switches it off. A setting that
    comes from a sweep axis, or that no architecture knows, is kept here and refused later with its reason.
    """
    elsewhere = fields_of_others(arch, model)
    return {key: value for key, value in model.items() if key not in elsewhere or f"model.{key}" in axes}

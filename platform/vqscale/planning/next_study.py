"""The study that trains one optimum of a fitted study: nearest trainable shape, the study's own settings, exact budget.

The planner solves the training tokens: the new study is an isoflop design of one budget and one size, so that they
follow from exact FLOPs as in every other study.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqscale import storage
from vqscale.costing.counts import parameters_non_embedding
from vqscale.costing.measured_speeds import MeasuredSpeeds
from vqscale.costing.presets import PRESETS, fields_of, fields_of_others, resolve, size_of
from vqscale.data.corpora import resolve_corpus
from vqscale.data.corpus import open_text
from vqscale.errors import StudyError
from vqscale.planning.centre import exact
from vqscale.results.result import Result
from vqscale.study.model import EXACT, WINDOW_BIAS, Arch, ModelConfig
from vqscale.study.spec import Study, parse_study

WIDTH_STEP = 4
SIZE_SLACK, RATIO_SLACK = 0.1, 0.3
"""A shape 10 % off in N counts as much as one 35 % off in width over depth: at an optimum loss hardly depends on N."""
REACH = 3.0
"""Depths are tried whose width over depth is within this factor of what the study's sizes suggest."""
VALUES_PER_SQUARE = 13
"""Parameters without embeddings are about 13 depth width^2 (`vqscale.costing.presets`)."""
SIZE_KEYS = frozenset({"preset", "d_model", "n_layer"})
"""Keys of `model` that a shape sets."""


@dataclass(frozen=True, kw_only=True)
class NextStudy:
    """A study of one run, and how its settings were derived."""

    study: Study
    shape: str
    notes: list[str]
    """How shape and learning rate were derived, one sentence each."""


def next_study(study: Study, runs: Sequence[Result], parameters: float, budget: float, question: str) -> NextStudy:
    """The study that spends `budget` training FLOPs on the shape nearest to `parameters`.

    `runs`: the finished runs of the fit, all of one architecture and context. Raises StudyError where no shape is near.
    """
    assert runs, "a fit has runs"
    near = min(runs, key=lambda run: (abs(math.log(run.parameters_non_embedding / parameters)), run.loss or math.inf))
    known: Arch = near.arch  # type: ignore[assignment]
    own = fields_of(known) - SIZE_KEYS - fields_of_others(near.arch, study.model)
    model = {key: value for key, value in study.model.items() if key in own} | {"arch": near.arch}
    if near.arch == "transformer_window" and near.variant is not None:
        model["window"] = int(near.variant.split("+")[0].removeprefix("w"))
    if near.arch in EXACT:
        model["bias"] = "window" if WINDOW_BIAS in (near.variant or "").split("+") else "all"
        model.pop("block_length", None)  # of other architectures, unless it is among what the run had
    given = {"codebook_size": near.codebook_size, "block_length": near.block_length, "head": near.head}
    model |= {key: value for key, value in given.items() if value is not None}
    name, vocabulary = _corpus(study, near)
    shape, shape_note = nearest_shape(parameters, runs, model, vocabulary)
    _require_variant(near, shape, model, vocabulary)
    train, lr_note = _train(study, near)
    resources, speed_notes = _resources(study, runs, near, parameters)
    values = study.model_dump(mode="json", exclude={"tracking"}) | {
        "study": f"{study.study}-{near.arch}-{exact(budget)}",
        "question": question,
        "tracking": study.tracking,  # not its masked text
        "data": {"corpus": name},
        "model": model | {"preset": shape},
        "train": train,
        "resources": resources,
        "design": [{"type": "isoflop", "budgets": [budget], "sizes": [shape], "hold_out": 0, "recentre": False}],
        "sweep": [],
        "throughput": None,
        "autotune": None,
    }
    made = parse_study({key: value for key, value in values.items() if value is not None}, source="the next study")
    hidden = [f"tracking.uri: write the password in place of ***: {study.tracking.uri}."]
    notes = [shape_note, lr_note, *speed_notes, *(hidden if study.tracking.uri.has_password else [])]
    return NextStudy(study=made, shape=shape, notes=notes)


def _resources(
    study: Study, runs: Sequence[Result], near: Result, parameters: float
) -> tuple[dict[str, Any], list[str]]:
    """The study's `resources` with the speed that its runs reached, and the note that says so.

    Only what was measured replaces what the study states: where no run has a speed, its own value is kept.
    """
    resources, measured = study.resources.model_dump(mode="json"), MeasuredSpeeds(runs)
    if not measured.runs:
        return resources, []
    speed = float(f"{measured.at(near.arch, near.context, parameters):.4g}")
    return resources | {"flops_per_second": speed}, [
        f"Its time is estimated from {speed:.4g} FLOP/s per worker, which runs of the size nearest to it reached"
        f" ({near.device or 'device unknown'})."
    ]


def _require_variant(near: Result, shape: str, model: Mapping[str, Any], vocabulary: int) -> None:
    """Raise StudyError unless `model` is the variant that was fitted: a table holds its name, not its settings."""
    made = _resolved(shape, model, vocabulary).variant
    if made != near.variant:
        raise StudyError(
            f"model: the fit is of {near.arch} as {near.variant or 'its usual form'}, and the study's `model` section"
            f" makes it {made or 'its usual form'}. Write its study by hand, with what the sweep set in `model`."
        )


def nearest_shape(n: float, runs: Sequence[Result], model: Mapping[str, Any], vocabulary: int) -> tuple[str, str]:
    """The shape, such as `d96x3`, for a model of `n` parameters without embeddings, and a sentence that says why.

    It is near in N, and its width over depth is near that of the sizes of `runs` at that N (interpolated in the
    logarithms; beyond them, that of the nearest size). Raises StudyError where no shape fits the settings of `model`.
    """
    aspect = _aspect(n, runs)
    shallowest, deepest = ((n / (VALUES_PER_SQUARE * (aspect * by) ** 2)) ** (1 / 3) for by in (REACH, 1 / REACH))
    depths = range(max(1, math.floor(shallowest)), math.ceil(deepest) + 1)
    found = [shape for depth in depths for shape in _of_depth(n, depth, model, vocabulary)]
    if not found:
        raise StudyError(f"model.d_key: {model.get('d_key')} divides no width of a model with N = {n:.4g}")
    sizes = {shape: _parameters(shape, model, vocabulary) for shape in found}
    shape = min(found, key=lambda one: math.hypot(
        math.log(sizes[one] / n) / SIZE_SLACK, math.log(_ratio(one) / aspect) / RATIO_SLACK
    ))  # fmt: skip
    return shape, (
        f"{shape} has N = {sizes[shape]:,}, {sizes[shape] / n - 1:+.1%} of the wanted {n:,.0f}; its width over depth is"
        f" {_ratio(shape):.3g}, where the study's sizes suggest {aspect:.3g}."
    )


def _ratio(shape: str) -> float:
    size = size_of(shape)
    return size.d_model / size.n_layer


def _aspect(n: float, runs: Sequence[Result]) -> float:
    """Width over depth of the study's sizes at `n`."""
    sizes = sorted({run.parameters_non_embedding: run.d_model / run.n_layer for run in runs}.items())
    log_n, log_ratio = np.log([size for size, _ in sizes]), np.log([ratio for _, ratio in sizes])
    return math.exp(float(np.interp(math.log(n), log_n, log_ratio)))


def _of_depth(n: float, depth: int, model: Mapping[str, Any], vocabulary: int) -> list[str]:
    """The shapes of this depth just below and just above `n` parameters."""
    usual = math.sqrt(n / (VALUES_PER_SQUARE * depth))
    first = WIDTH_STEP * max(1, math.floor(usual / 2 / WIDTH_STEP))
    # From half the usual width to half as much again: keys and biases move the width of N, the more the wider it is.
    shapes = [f"d{width}x{depth}" for width in range(first, 3 * first + 8 * WIDTH_STEP, WIDTH_STEP)]
    shapes = [shape for shape in shapes if _keys_fill(shape, model)]
    above = bisect.bisect_left(shapes, n, key=lambda shape: _parameters(shape, model, vocabulary))
    return shapes[max(0, above - 1) : above + 1]


def _keys_fill(shape: str, model: Mapping[str, Any]) -> bool:
    """Whether heads fill the width with keys at least half as wide as those of presets of that width."""
    size = size_of(shape)
    if "d_key" in model:
        return bool(size.d_model % model["d_key"] == 0)
    narrower = [preset for preset in PRESETS.values() if preset.d_model <= size.d_model] or [PRESETS["pico"]]
    return 2 * size.d_key >= narrower[-1].d_key


def _parameters(shape: str, model: Mapping[str, Any], vocabulary: int) -> int:
    return parameters_non_embedding(_resolved(shape, model, vocabulary))


def _resolved(shape: str, model: Mapping[str, Any], vocabulary: int) -> ModelConfig:
    overrides = {key: value for key, value in model.items() if key != "arch"}
    return resolve(model["arch"], shape, vocabulary, overrides)


def _corpus(study: Study, near: Result) -> tuple[str, int]:
    """The study's name for the corpus that the run read, or else the corpus's address; and its vocabulary size."""
    named = open_text(storage.absolute(resolve_corpus(study.data.corpus)))
    if named.fingerprint == near.corpus_fingerprint:
        return study.data.corpus, named.vocab_size
    return near.corpus, open_text(near.corpus).vocab_size


def _train(study: Study, near: Result) -> tuple[dict[str, Any], str]:
    """The study's `train` section for one run, and how its learning rate was derived."""
    left = {key: value for key, value in study.train.items() if key not in ("tokens", "seeds", "lr", "segment")}
    train = left | {"context": near.context, "precision": near.precision, "seeds": [near.seed]}
    if near.segment != near.context:
        train["segment"] = near.segment
    tuned = study.recipe is not None and any(rule.batch_tokens for rule in study.recipe.rules if rule.arch == near.arch)
    train = {key: value for key, value in train.items() if key != "batch_tokens"} if tuned else train
    if study.recipe is not None:
        return train | ({} if tuned else {"batch_tokens": near.batch_tokens}), "The recipe sets the learning rate."
    return train | {"batch_tokens": near.batch_tokens, "lr": near.lr}, (
        f"The learning rate {near.lr:g} is that of {near.name}, the nearest size trained; no recipe scales it."
    )

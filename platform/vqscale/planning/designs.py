"""From a design to its trials: training tokens from exact FLOPs, sizes around the expected optimum, dropped points.

C = tokens x FLOPs per token, exactly as `vqscale.costing.counts` counts them; training tokens are the whole number of
updates nearest to the budget. N is without embeddings.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vqscale.costing.counts import flops_per_token, parameters_non_embedding
from vqscale.errors import StudyError
from vqscale.planning.centre import Centre, best_sizes, exact, extrapolated, guessed
from vqscale.planning.check import GridPointError
from vqscale.planning.grid_points import GridPoint, Resolver, grid_point, grid_settings, seeds_of, where
from vqscale.planning.task import training_tokens
from vqscale.results.result import Result
from vqscale.study.design import CodebookDesign, ContextDesign, Design, IsoflopDesign, LadderDesign
from vqscale.study.model import QUANTISED
from vqscale.study.trial import Trial

DONE = ("finished", "diverged", "stopped")
"""Status of a trial that is not trained again."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A trial of the study, and the sweep or designs that it comes from."""

    trial: Trial
    origins: tuple[str, ...]
    """`sweep` or types of designs."""
    budget: float | None = None
    """Training FLOPs that the training tokens were solved for; None where tokens were given."""
    stage: float | None = None
    """Budget of a re-centred design: trained once all smaller ones are; None: at any time."""

    def merged(self, other: "Selected") -> "Selected":
        """This trial with the origins of `other`, the same trial in another design; a stage only if both have one."""
        staged = self.stage is not None and other.stage is not None
        return dataclasses.replace(
            self,
            origins=tuple(dict.fromkeys(self.origins + other.origins)),
            budget=self.budget if self.budget is not None else other.budget,
            stage=min(self.stage or 0.0, other.stage or 0.0) if staged else None,
        )


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A point of a design that is not trained."""

    design: str
    settings: dict[str, Any]
    """What the design and its axes set, by dotted path."""
    budget: float | None
    reason: str
    fingerprint: str | None = None
    """Fingerprint of the trial that it would have been; None where the settings make no trial."""


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """The trials of one design, given the results so far."""

    selected: list[Selected]
    dropped: list[Dropped]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A grid point before its training tokens are known: one of `budget`, `tokens` and `multiple` is set."""

    settings: dict[str, Any]
    budget: float | None = None
    tokens: int | None = None
    multiple: float | None = None
    """Tokens per parameter."""
    seeds: list[int] | None = None
    """None: the study's."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A grid point that can be trained: one trial per seed."""

    request: _Request
    trials: list[Trial]
    parameters: int
    flops_per_token: float

    @functools.cached_property
    def family(self) -> str:
        """The row of sizes that it belongs to: all its settings without size and budget, as text."""
        return json.dumps({k: v for k, v in self.request.settings.items() if k != "model.preset"}, sort_keys=True)


def expand_design(resolver: Resolver, design: Design, *, source: str, results: Mapping[str, Result | None]) -> Expanded:
    """The trials of one design. Raises StudyError for a mistake in the study itself."""
    candidates: list[_Candidate] = []
    dropped: list[Dropped] = []
    for request in _requests(design):
        try:
            candidates.append(_candidate(resolver, design, request))
        except GridPointError as error:
            dropped.append(_drop(design, request, str(error)))
        except StudyError as error:
            raise StudyError(f"{source}: {error}{where(request.settings)}") from error
    if isinstance(design, LadderDesign):
        _require_ascending(design, candidates, source)
    if isinstance(design, IsoflopDesign) and design.per_budget is not None:
        return _around_optimum(design, candidates, dropped, results)
    notes = _notes(resolver, design)
    selected = [_select(design, one, trial) for one in candidates for trial in one.trials]
    return Expanded(selected=selected, dropped=dropped, notes=notes)


def _requests(design: Design) -> Iterator[_Request]:
    """Every grid point of a design, axes outermost and sizes innermost."""
    for axes in grid_settings(design.axes):
        if isinstance(design, IsoflopDesign):
            for budget in sorted(design.budgets):
                seeds = design.smallest_budget_seeds if budget == min(design.budgets) else None
                for size in design.sizes:
                    yield _Request(settings=axes | {"model.preset": size}, budget=budget, seeds=seeds)
        elif isinstance(design, LadderDesign):
            for size in design.sizes:
                for multiple in design.tokens_per_parameter:
                    yield _Request(settings=axes | {"model.preset": size}, multiple=multiple)
        else:
            yield from _compared(design, axes)


def _compared(design: ContextDesign | CodebookDesign, axes: dict[str, Any]) -> Iterator[_Request]:
    values = design.contexts if isinstance(design, ContextDesign) else design.codebook_sizes
    axis = "train.context" if isinstance(design, ContextDesign) else "model.codebook_size"
    for value in values:
        for size in design.sizes:
            settings = axes | {axis: value, "model.preset": size}
            for budget in sorted(design.budgets):
                yield _Request(settings=settings, budget=budget)
            for tokens in sorted(design.tokens):
                yield _Request(settings=settings, tokens=tokens)


def _candidate(resolver: Resolver, design: Design, request: _Request) -> _Candidate:
    """The trials of one grid point. Raises GridPointError where it cannot be trained, StudyError for a mistake."""
    point = grid_point(resolver.study, request.settings)
    if isinstance(design, CodebookDesign) and point["model"].get("arch") not in QUANTISED:
        raise GridPointError(f"model.arch: {point['model'].get('arch')} has no codebook")
    model = resolver.model(point, frozenset(request.settings))
    own = point["train"]
    context, segment = _whole(own, "context"), None if own.get("segment") is None else _whole(own, "segment")
    if context % (segment or context):
        raise GridPointError(f"train.context: {context} is no multiple of train.segment {segment}")
    n, flops = parameters_non_embedding(model), sum(flops_per_token(model, context, segment).values())
    wanted = _wanted_tokens(request, n, flops)
    train = {key: value for key, value in resolver.train(point, model, tokens=wanted).items() if key != "tokens"}
    batch = _whole(train, "batch_tokens")
    if batch < (segment or context):
        raise GridPointError(
            f"train.batch_tokens: {batch} tokens hold no sequence of {segment or context}: batch too small"
        )
    tokens = _solved_tokens(wanted, batch, design.minimum_steps)
    _require_epochs(resolver, point, design, tokens)
    seeds = request.seeds or seeds_of(point)
    trials = [resolver.trial(point, model, train | {"tokens": tokens}, seed) for seed in seeds]
    return _Candidate(request=request, trials=trials, parameters=n, flops_per_token=flops)


def _wanted_tokens(request: _Request, n: int, flops: float) -> float:
    """Training tokens that are asked for. `flops`: per token."""
    if request.budget is not None:
        return request.budget / flops
    return float(request.tokens) if request.tokens is not None else n * (request.multiple or 0.0)


def _solved_tokens(wanted: float, batch: int, minimum_steps: int) -> int:
    """Training tokens of the whole number of updates nearest to `wanted`.

    Raises GridPointError for fewer updates than `minimum_steps`.
    """
    steps = math.floor(wanted / batch + 0.5)  # round() would take halves to even numbers
    if steps < minimum_steps:
        raise GridPointError(
            f"too few training tokens: {steps} updates of {batch} tokens, fewer than minimum_steps {minimum_steps}"
        )
    return steps * batch


def _require_epochs(resolver: Resolver, point: GridPoint, design: Design, tokens: int) -> None:
    _, corpus = resolver.corpus(point)
    held = training_tokens(corpus, _whole(point["train"], "context"))
    if design.max_epochs is not None and tokens > design.max_epochs * held:
        raise GridPointError(
            f"too many training tokens: {tokens} read the {held} tokens of the training split {tokens / held:.3g}"
            f" times, more than max_epochs {design.max_epochs:g}"
        )


def _whole(train: dict[str, Any], key: str) -> int:
    value = train.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise StudyError(
            f"train.{key}: {value!r} is no positive whole number, which a design needs to solve the training tokens"
        )
    return value


def _require_ascending(design: LadderDesign, candidates: list[_Candidate], source: str) -> None:
    """Raises StudyError unless the sizes of an architecture are in ascending order of N: the last are held out."""
    rows: dict[str, dict[str, int]] = {}
    for one in candidates:
        rows.setdefault(one.family, {})[one.request.settings["model.preset"]] = one.parameters
    for sizes in rows.values():
        if list(sizes.values()) != sorted(sizes.values()):
            raise StudyError(f"{source}: sizes: {list(sizes)} are not in ascending order of N ({list(sizes.values())})")


def _around_optimum(
    design: IsoflopDesign, candidates: list[_Candidate], dropped: list[Dropped], results: Mapping[str, Result | None]
) -> Expanded:
    """At every budget the sizes nearest to the expected optimum; trials already trained elsewhere on the grid stay."""
    selected: list[Selected] = []
    notes: list[str] = []
    rows: dict[tuple[str, float], list[_Candidate]] = {}
    families: dict[str, list[_Candidate]] = {}
    for one in candidates:
        rows.setdefault((one.family, one.request.budget or 0.0), []).append(one)
        families.setdefault(one.family, []).append(one)
    known = {family: _family(design, members, results) for family, members in families.items()}
    for (family, budget), row in rows.items():
        centre = known[family].centre(design, budget)
        nearest = sorted(row, key=lambda one: abs(math.log(one.parameters / centre.parameters)))[: design.per_budget]
        selected_sizes = {id(one) for one in nearest}
        notes.append(
            f"{_named(family)}C = {exact(budget)}: optimum expected at N = {centre.parameters:.3g} ({centre.source})"
        )
        reason = f"not among the {design.per_budget} sizes nearest to N = {centre.parameters:.3g} ({centre.source})"
        for one in row:
            for trial in one.trials:
                result = results.get(trial.id)
                if id(one) in selected_sizes or (result is not None and result.status in DONE):
                    selected.append(_select(design, one, trial))
                else:
                    dropped.append(_drop(design, one.request, reason, trial))
    return Expanded(selected=selected, dropped=dropped, notes=notes)


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What the grid points of one family say about its optima, the same at every budget."""

    best: dict[float, float]
    """Best size by budget, of those that are trained; empty for a design that is not re-centred."""
    rungs: list[tuple[float, float]]
    """(N, FLOPs per token) of its sizes."""

    def centre(self, design: IsoflopDesign, budget: float) -> Centre:
        """The expected optimum of one budget."""
        return extrapolated(budget, self.best) or guessed(budget, self.rungs, design.tokens_per_parameter)


def _family(design: IsoflopDesign, members: list[_Candidate], results: Mapping[str, Result | None]) -> _Family:
    trained: dict[float, dict[float, float]] = {}
    for one in members if design.recentre else ():
        loss = _mean_loss(one, results)
        if loss is not None:
            trained.setdefault(one.request.budget or 0.0, {})[float(one.parameters)] = loss
    rungs = {(float(one.parameters), one.flops_per_token) for one in members}
    return _Family(best=best_sizes(trained), rungs=sorted(rungs))


def _mean_loss(one: _Candidate, results: Mapping[str, Result | None]) -> float | None:
    """Held-out loss, mean over the seeds that finished; None where no seed did."""
    found = [result for result in (results.get(trial.id) for trial in one.trials) if result is not None]
    losses = [result.loss for result in found if result.status == "finished" and result.loss is not None]
    return sum(losses) / len(losses) if losses else None


def _notes(resolver: Resolver, design: Design) -> list[str]:
    if isinstance(design, ContextDesign) and resolver.study.train.get("evaluation_context") is None:
        return [
            "context: every T is evaluated on held-out text that is cut into sequences of its own length: compare"
            " losses at the same positions. To have all models read the longest sequences, with carried state beyond"
            f" their own T, set train.evaluation_context: {max(design.contexts)}."
        ]
    return []


def _select(design: Design, one: _Candidate, trial: Trial) -> Selected:
    stage = one.request.budget if isinstance(design, IsoflopDesign) and design.staged else None
    return Selected(trial=trial, origins=(design.type,), budget=one.request.budget, stage=stage)


def _drop(design: Design, request: _Request, reason: str, trial: Trial | None = None) -> Dropped:
    settings = dict(request.settings)
    settings |= {"train.tokens": request.tokens} if request.tokens is not None else {}
    settings |= {"tokens_per_parameter": request.multiple} if request.multiple is not None else {}
    settings |= {"seed": trial.train.seed} if trial is not None and len(request.seeds or []) > 1 else {}
    fingerprint = trial.fingerprint if trial is not None else None
    return Dropped(design=design.type, settings=settings, budget=request.budget, reason=reason, fingerprint=fingerprint)


def _named(family: str) -> str:
    values = json.loads(family)
    return "".join(f"{value}, " for value in values.values())

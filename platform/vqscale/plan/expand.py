"""From a study to its trials: every point of sweep and designs, resolved, checked, and dropped only with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass

from vqscale.errors import StudyError
from vqscale.plan.designs import Dropped, Selected, expand_design
from vqscale.plan.grid_points import Resolver, grid_point, grid_settings, seeds_of, where
from vqscale.plan.recipe import recipe_notes
from vqscale.plan.task import cut_notes
from vqscale.results.result import Result
from vqscale.study.spec import Study
from vqscale.study.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The trials of a study, each once whatever names it, in the order of the file: sweep, then designs."""

    selected: list[Selected]
    dropped: list[Dropped]
    notes: list[str]
    """What a person should know of how grid points were chosen."""

    @property
    def trials(self) -> list[Trial]:
        return [one.trial for one in self.selected]


def expand(study: Study, *, source: str, results: Mapping[str, Result | None] | None = None) -> Expansion:
    """Every trial of a study; `results` (by trial id) are what its designs are re-centred by.

    Raises StudyError with the file's name, the key, the value and the rule; CorpusError for a corpus that is not there.
    """
    resolver = Resolver(study)
    chosen: dict[str, Selected] = {}
    dropped: list[Dropped] = []
    notes: list[str] = []
    for one in _swept(resolver, source):
        chosen.setdefault(one.trial.fingerprint, one)
    for index, design in enumerate(study.design):
        found = expand_design(resolver, design, source=f"{source}: design.{index}", results=results or {})
        for one in found.selected:
            known = chosen.get(one.trial.fingerprint)
            chosen[one.trial.fingerprint] = known.merged(one) if known else one
        dropped += found.dropped
        notes += found.notes
    if study.recipe is not None:
        notes += recipe_notes(study.recipe, (one.trial for one in chosen.values()))
    notes += cut_notes((one.trial for one in chosen.values()), resolver.corpora)
    left = [one for one in dropped if one.fingerprint not in chosen]
    return Expansion(selected=list(chosen.values()), dropped=left, notes=notes)


def _swept(resolver: Resolver, source: str) -> list[Selected]:
    """The trials of the sweep, in which a point that cannot be trained is a mistake."""
    found = []
    for axes in resolver.study.sweep:
        for settings in grid_settings(axes):
            point = grid_point(resolver.study, settings)
            try:
                model = resolver.model(point, frozenset(settings))
                train = resolver.train(point, model)
                for seed in seeds_of(point):
                    found.append(Selected(trial=resolver.trial(point, model, train, seed), origins=("sweep",)))
            except StudyError as error:
                raise StudyError(f"{source}: {error}{where(settings)}") from error
    return found

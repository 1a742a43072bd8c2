"""From a study to its trials: every grid point of sweep and designs, resolved, checked, or dropped with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass

from vqscale.errors import StudyError
from vqscale.planning.designs import Dropped, Selected, expand_design
from vqscale.planning.grid_points import Resolver, grid_point, grid_settings, seeds_of, where
from vqscale.planning.recipe import recipe_notes
from vqscale.planning.sections import check_sections
from vqscale.planning.task import cut_notes, evaluation_notes, other_text_notes
from vqscale.results.result import Result
from vqscale.study.spec import Study
from vqscale.study.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The trials of a study, each once even if several designs have it, in the order sweep, then designs."""

    selected: list[Selected]
    dropped: list[Dropped]
    notes: list[str]
    """Notes for the user on how grid points were selected."""

    @property
    def trials(self) -> list[Trial]:
        return [one.trial for one in self.selected]


def expand(study: Study, *, source: str, results: Mapping[str, Result | None] | None = None) -> Expansion:
    """Every trial of a study; designs are re-centred by `results` (by trial id).

    Raises StudyError with the file's name, the key, the value and the rule, and CorpusError for a corpus that does not
    exist.
    """
    try:
        check_sections(study)
    except StudyError as error:
        raise StudyError(f"{source}: {error}") from error
    resolver = Resolver(study)
    selected: dict[str, Selected] = {}
    dropped: list[Dropped] = []
    notes: list[str] = []
    for one in _swept(resolver, source):
        selected.setdefault(one.trial.fingerprint, one)
    for index, design in enumerate(study.design):
        found = expand_design(resolver, design, source=f"{source}: design.{index}", results=results or {})
        for one in found.selected:
            known = selected.get(one.trial.fingerprint)
            selected[one.trial.fingerprint] = known.merged(one) if known else one
        dropped += found.dropped
        notes += found.notes
    if study.recipe is not None:
        notes += recipe_notes(study.recipe, (one.trial for one in selected.values()))
    notes += cut_notes((one.trial for one in selected.values()), resolver.corpora)
    notes += evaluation_notes((one.trial for one in selected.values()), resolver.corpora)
    notes += other_text_notes(one.trial for one in selected.values())
    left = [one for one in dropped if one.fingerprint not in selected]
    return Expansion(selected=list(selected.values()), dropped=left, notes=notes)


def _swept(resolver: Resolver, source: str) -> list[Selected]:
    """The trials of the sweep. A grid point that cannot be trained is a mistake here, not dropped."""
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

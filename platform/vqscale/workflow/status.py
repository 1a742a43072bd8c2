"""How far a study has come, from its file, its folder, or the folder that holds several studies."""

from collections import Counter
from dataclasses import dataclass, field

from vqscale import storage
from vqscale.planning.plan import plan
from vqscale.results.lease import owner_now
from vqscale.study.places import STUDY_FILE, is_study_file, open_any, studies_in, study_file
from vqscale.study.throughput_study import ThroughputStudy


@dataclass(frozen=True, kw_only=True)
class StudyState:
    study: str
    folder: str
    unit: str
    """What is counted: trials, or the cells of a throughput study."""
    states: dict[str, int]
    """How many are in which state; `pending` where there is no record."""
    owner: str | None = None
    """Who runs it at present, as text for the user."""
    damaged: list[str] = field(default_factory=list)
    """Records and measurements that cannot be read or not as a whole, as text for the user."""

    @property
    def total(self) -> int:
        return sum(self.states.values())


def states_of(target: str) -> list[StudyState]:
    """The state of the study that `target` names, or of every study in the folder `target`. Starts and writes nothing.

    Raises StudyError where there is neither.
    """
    if not is_study_file(target) and storage.is_folder(target):
        names = [] if storage.exists(storage.join(target, STUDY_FILE)) else studies_in(target)
        if names:
            return [_state(storage.join(target, name)) for name in names]
    return [_state(target)]


def _state(target: str) -> StudyState:
    study, source = open_any(target), study_file(target)
    if isinstance(study, ThroughputStudy):
        return _measured(study, source)
    planned = plan(study, source=source, allow_changed=True)
    counts = Counter("pending" if one.result is None else one.result.status for one in planned.trials)
    return StudyState(
        study=study.study,
        folder=study.folder,
        unit="trials",
        states=dict(counts.most_common()),
        owner=owner_now(study.folder),
        damaged=planned.damaged,
    )


def _measured(study: ThroughputStudy, source: str) -> StudyState:
    from vqscale.throughput.measurement import read_measurement
    from vqscale.throughput.plan import plan_throughput  # loads torch, which a study that trains need not

    planned = plan_throughput(study, source=source)
    damaged: list[str] = []
    found = (read_measurement(study.folder, one.id(cell), damaged.append) for one, cell in planned.cells)
    counts = Counter("pending" if one is None else "measured" for one in found)
    states = dict(counts.most_common())
    return StudyState(study=study.study, folder=study.folder, unit="cells", states=states, damaged=damaged)

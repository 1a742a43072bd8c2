"""From a study folder, a study file or a table, as the user names it, to the table and the folder of its analysis."""

from dataclasses import dataclass

from vqscale import storage
from vqscale.errors import StorageError
from vqscale.results.foreign.files import SUFFIXES, suffix_of, without_suffix
from vqscale.study.spec import Study, load_study

TABLE = "results.parquet"
STUDY_FILE = "study.yaml"


@dataclass(frozen=True, kw_only=True)
class Target:
    folder: str
    """Where fits, figures and the report of this table go."""
    table: str
    study: Study | None
    """None for a table from elsewhere."""

    @property
    def name(self) -> str:
        """File name of the table."""
        return self.table.rsplit("/", 1)[-1]

    @property
    def home(self) -> str | None:
        """The study's folder, with its trials and its plan; None for a table from elsewhere."""
        return self.table.rsplit("/", 1)[0] if self.table.endswith(f"/{TABLE}") else None


def locate(target: str | Study, out: str | None = None) -> Target:
    """The table of `target`; `out` replaces the folder of the analysis.

    A table from elsewhere, `runs.csv`, is analysed in `runs.analysis/` beside it. Raises StorageError where no table
    is found, StudyError for a study file that is not one.
    """
    if isinstance(target, Study):
        return Target(folder=out or target.folder, table=_table_of(target.folder, target.study), study=target)
    if suffix_of(target):
        return Target(folder=out or without_suffix(target) + ".analysis", table=target, study=None)
    study = load_study(target) if target.endswith((".yaml", ".yml")) else None
    folder = study.folder if study else locate_folder(target)
    table = _table_of(folder, target)
    kept = storage.join(folder, STUDY_FILE)
    if study is None and storage.exists(kept):
        study = load_study(kept)
    return Target(folder=out or folder, table=table, study=study)


def locate_folder(target: str | Study) -> str:
    """The absolute folder of a study or its file, or `target` itself made absolute. Raises StudyError."""
    if isinstance(target, Study):
        return target.folder
    return load_study(target).folder if target.endswith((".yaml", ".yml")) else storage.absolute(target)


def _table_of(folder: str, name: str) -> str:
    table = storage.join(folder, TABLE)
    if not storage.exists(table):
        raise StorageError(
            f"{name}: no results yet ({table} is missing). Run the study, or name a table of runs"
            f" (.{', .'.join(SUFFIXES)})."
        )
    return table

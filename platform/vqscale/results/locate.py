"""From a study folder, a study file or a table, as the user names it, to the table and the folder of its analysis."""

import shlex
from dataclasses import dataclass

from vqscale import storage
from vqscale.errors import StorageError
from vqscale.results.foreign.files import suffix_of, without_suffix
from vqscale.study.places import STUDY_FILE, is_study_file, open_study, without_study
from vqscale.study.spec import Study

TABLE = "results.parquet"


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
    def fit_command(self) -> str:
        """The command that writes the fits of this target, as one types it."""
        target = self.home or self.table
        usual = self.home or without_suffix(self.table) + ".analysis"
        out = "" if self.folder == usual else f" --out {shlex.quote(self.folder)}"
        return f"vqscale fit {shlex.quote(target)}{out}"

    @property
    def home(self) -> str | None:
        """The study's folder, with its trials and its plan; None for a table from elsewhere."""
        return self.table.rsplit("/", 1)[0] if self.table.endswith(f"/{TABLE}") else None

    def require_writable(self) -> None:
        """Raise StorageError, before any work, unless the analysis can be written to its folder."""
        try:
            storage.require_writable(self.folder)
        except StorageError as error:
            raise StorageError(f"{str(error).removeprefix('storage: ')} Or name one with --out.") from error


def locate(target: str | Study, out: str | None = None) -> Target:
    """The table of `target`; `out` replaces the folder of the analysis.

    A table from elsewhere, `runs.csv`, is analysed in `runs.analysis/` beside it. Raises StorageError where no table
    is found, StudyError for a study file that is not one.
    """
    if isinstance(target, Study):
        table = _table_of(target.folder, f"{target.study}: no results yet, run it first")
        return Target(folder=out or target.folder, table=table, study=target)
    if suffix_of(target):
        return Target(folder=out or without_suffix(target) + ".analysis", table=target, study=None)
    study, folder = _study_of(target), storage.absolute(target)
    if study is not None and (is_study_file(target) or not storage.exists(storage.join(folder, TABLE))):
        folder = study.folder
    without = f"{target}: no results yet. Make some: vqscale run {shlex.quote(target)}"
    if study is None and not storage.exists(storage.join(folder, TABLE)):
        raise StorageError(without_study(target, table="a table of runs (.csv, .jsonl, .parquet)"))
    return Target(folder=out or folder, table=_table_of(folder, without), study=study)


def locate_folder(target: str | Study) -> str:
    """The absolute folder of a study or its file, or `target` itself made absolute. Raises StudyError."""
    if isinstance(target, Study):
        return target.folder
    study = _study_of(target)
    return study.folder if study else storage.absolute(target)


def _study_of(target: str) -> Study | None:
    """The study of a file or a folder; None for a folder without a study file, such as that of a trial."""
    kept = is_study_file(target) or storage.exists(storage.join(target, STUDY_FILE))
    return open_study(target) if kept else None


def _table_of(folder: str, without: str) -> str:
    """The table in a study's folder. Raises StorageError with the message `without` where there is none."""
    table = storage.join(folder, TABLE)
    if not storage.exists(table):
        raise StorageError(f"{without} ({table} is missing).")
    return table

"""From what a user names (a study file, a study's folder, the table in it) to the study, the same way in every command.

A folder that holds trials or measurements is a study's own, wherever it was moved or copied to: its `study.yaml` holds
the address that it was written at, and counts as a study in that folder, of that folder's name.
"""

import re
from typing import TypeVar, cast

from vqscale import storage
from vqscale.errors import StudyError
from vqscale.study.spec import NAME_PATTERN, Study, load_study
from vqscale.study.throughput_study import ThroughputStudy, load_any

STUDY_FILE = "study.yaml"
OWN = ("trials", "throughput.parquet")
"""What only a study's own folder holds; a folder where a user keeps a study file has neither."""
TABLES = ("results.parquet", "results.csv", "throughput.parquet", "throughput.csv")
"""Tables in a study's own folder."""
SHOWN = 5
"""Studies that a message names."""
_AnyStudy = TypeVar("_AnyStudy", bound=Study | ThroughputStudy)


def open_any(target: str) -> Study | ThroughputStudy:
    """The study, of any kind, of a study file, of a study's folder or of the table in it. Raises StudyError."""
    file = study_file(target)
    return _at_home(_loaded(file), file)


def open_study(target: str) -> Study:
    """As `open_any`, for what works on a study that trains."""
    file = study_file(target)
    found = _loaded(file)
    # Of the other kind `load_study` says so: that is no damage of the file.
    return _at_home(load_study(file) if isinstance(found, ThroughputStudy) else found, file)


def _loaded(file: str) -> Study | ThroughputStudy:
    """The study in a file. Raises StudyError, for a study's own copy of its file with the way to write it again."""
    try:
        return load_any(file)
    except StudyError as error:
        folder = storage.absolute(file).rpartition("/")[0]
        if not file.endswith(f"/{STUDY_FILE}") or not any(storage.exists(storage.join(folder, name)) for name in OWN):
            raise
        raise StudyError(
            f"{error}\nThis is the study's copy, beside its results. `vqscale run` of the study's own file writes it"
            " again; or name that file here."
        ) from error


def study_file(target: str) -> str:
    """The study file of what the user names. Raises StudyError, with what to name instead, where there is none."""
    if is_study_file(target):
        return target
    path, name = storage.absolute(target), _name_of(target)
    kept = storage.join(path.rpartition("/")[0] if name in TABLES else path, STUDY_FILE)
    if not storage.exists(kept):
        raise StudyError(without_study(target))
    return kept


def is_study_file(target: str) -> bool:
    return target.endswith((".yaml", ".yml"))


def without_study(target: str, *, table: str | None = None) -> str:
    """What is wrong with a target that is no study file and holds none, with what to name instead.

    `table`: what the command takes beside studies.
    """
    known = ["a study file (.yaml)", "the folder of a study"]
    ask = f"Name {', '.join([*known, f'or {table}'])}." if table else f"Name {' or '.join(known)}."
    path = storage.absolute(target)
    if not storage.exists(path):
        return f"{target}: does not exist. {ask}"
    if not storage.is_folder(path):
        return f"{target}: is no study file. {ask}"
    found = studies_in(path)
    if not found:
        return f"{target}: holds no {STUDY_FILE}. {ask}"
    named = ", ".join(storage.join(target, name) for name in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{target}: holds {len(found)} {'study' if len(found) == 1 else 'studies'}: name one of {named}{more}."


def studies_in(folder: str) -> list[str]:
    """Names of the folders in a folder that hold a study, in the order of the alphabet."""
    return [name for name in storage.listdir(folder) if storage.exists(storage.join(folder, name, STUDY_FILE))]


def _name_of(target: str) -> str:
    return target.rstrip("/").rsplit("/", 1)[-1]


def _at_home(study: _AnyStudy, file: str) -> _AnyStudy:
    """The study where its file is, if that is a study's own folder. Raises StudyError for a folder that no study can
    be named like."""
    folder = storage.absolute(file).rpartition("/")[0]
    if folder == study.folder or not any(storage.exists(storage.join(folder, name)) for name in OWN):
        return study
    parent, _, name = folder.rpartition("/")
    if not re.fullmatch(NAME_PATTERN, name):
        raise StudyError(
            f"{folder}: {name!r} is no name for a study, and a study's folder has its name. Rename the folder: letters,"
            " digits, and . _ - after the first."
        )
    return cast(_AnyStudy, study.model_copy(update={"storage": parent, "study": name}))

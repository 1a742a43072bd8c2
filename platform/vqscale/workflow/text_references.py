"""What general compressors make of a study's held-out text, kept beside its results."""

import math
from collections.abc import Callable
from typing import Any

from vqscale import storage
from vqscale.data.corpus import open_text
from vqscale.data.references import text_references
from vqscale.errors import MissingFileError
from vqscale.results import Result
from vqscale.results.own_files import DamagedFileError, read_object, replace_json
from vqscale.study.spec import Study

REFERENCES_FILE = "references.json"


def read_references(folder: str, warn: Callable[[str], None]) -> dict[str, dict[str, float]] | None:
    """The file of a study's folder; None where there is none, or a damaged one, which `warn` is told of."""
    uri = storage.join(folder, REFERENCES_FILE)
    try:
        found = read_object(uri)
        if wrong := [name for name, values in found.items() if not _are_numbers(values)]:
            raise DamagedFileError(uri, f"{wrong[0]} holds no numbers")
        return found
    except MissingFileError:
        return None
    except DamagedFileError as error:
        warn(f"{error} `vqscale run` of the study writes it again.")
        return None


def measure_references(study: Study, results: list[Result], warn: Callable[[str], None]) -> None:
    """Compress the study's held-out text, unless its file has it; a classifier has no text."""
    if study.task == "classification":
        return
    tokens = int(study.train.get("evaluation_tokens", 65536))
    texts = {f"{result.corpus_fingerprint[:12]}/{tokens}": result.corpus for result in results}
    known = read_references(study.folder, warn)
    if known is None or set(texts) != set(known):
        measured = {key: text_references(open_text(c).split("validation"), tokens) for key, c in texts.items()}
        replace_json(storage.join(study.folder, REFERENCES_FILE), measured)


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, dict)
        and bool(values)
        and all(type(one) in (int, float) and math.isfinite(one) for one in values.values())
    )

"""What general compressors make of a study's held-out text, kept beside its results."""

from collections.abc import Callable

from vqscale import storage
from vqscale.data.corpus import open_text
from vqscale.data.references import text_references
from vqscale.errors import MissingFileError
from vqscale.results import Result
from vqscale.results.own_files import DamagedFileError, read_object, replace_json
from vqscale.results.references import References, parse_references
from vqscale.study.spec import Study
from vqscale.sweep.events import StudyEvents

REFERENCES_FILE = "references.json"


def read_references(folder: str, warn: Callable[[str], None]) -> dict[str, References] | None:
    """The file of a study's folder; None where there is none, or a damaged one, which `warn` is told of."""
    uri = storage.join(folder, REFERENCES_FILE)
    try:
        content = read_object(uri)
        try:
            return parse_references(content)
        except ValueError as error:
            raise DamagedFileError(uri, str(error)) from error
    except MissingFileError:
        return None
    except DamagedFileError as error:
        warn(f"{error} `vqscale run` of the study writes it again.")
        return None


def measure_references(study: Study, results: list[Result], events: StudyEvents) -> None:
    """Compress the study's held-out text, unless its file has it; a classifier has no text.

    A text is compressed again where its figures are of an earlier version, or a run has read more since.
    """
    if study.task == "classification":
        return
    longest: dict[tuple[str, str], Result] = {}
    for one in results:
        if one.evaluation_text is not None:
            text = (f"{one.corpus_fingerprint[:12]}/{one.evaluation_text}", one.corpus)
            longest[text] = max(longest.get(text, one), one, key=lambda result: result.tokens)
    known = read_references(study.folder, lambda text: events.message(text, "warning")) or {}
    found: dict[str, References] = {}
    for (key, uri), run in longest.items():
        corpus = open_text(uri)
        read = min(round(run.tokens * corpus.bytes_per_token), corpus.split("train").record.bytes)
        kept = known.get(key)
        if kept is None or kept.read_bytes != read:
            events.phase("compressing the held-out text")
            kept = text_references(corpus, str(run.evaluation_text), read_bytes=read)
        found[key] = kept
    if found and found != known:
        content = {key: one.model_dump(mode="json") for key, one in found.items()}
        replace_json(storage.join(study.folder, REFERENCES_FILE), content)

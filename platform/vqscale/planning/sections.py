"""The sections of a study that are used after its trials, or by another command, checked before any trial starts."""

from vqscale.costing.presets import size_of
from vqscale.errors import StudyError
from vqscale.study.spec import Study


def check_sections(study: Study) -> None:
    """Raises StudyError for what would fail only when the trials are trained: without the name of the file."""
    throughput = study.throughput
    if throughput is not None:
        try:
            block = throughput.block_length or size_of(throughput.preset).block_length
        except StudyError as error:
            raise StudyError(str(error).replace("model.preset", "throughput.preset", 1)) from error
        if study.task != "language":
            raise StudyError("throughput: is measured for language models only. Leave it out where task is another.")
        for context in throughput.contexts:
            if context % block:
                raise StudyError(
                    f"throughput.contexts: {context} is no multiple of block_length {block}: VQ attention trains in"
                    f" whole blocks. Use a multiple of {block}, or set throughput.block_length."
                )

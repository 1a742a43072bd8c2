"""What a study's task requires of its corpus and settings and, for classifiers, sets in the model."""

from collections.abc import Iterable, Mapping
from typing import Any

from vqscale.data.corpus import Corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.errors import StudyError
from vqscale.study.trial import Task, Trial

AnyCorpus = Corpus | LabelledCorpus

OWN_SETTINGS = ("causal", "pooling")
"""Settings of a classifier's model that a study may give beside those of `presets.resolve`."""

_NOT_FOR: dict[Task, dict[str, str]] = {
    "language": {
        "evaluation_examples": "a text has no examples. Set train.evaluation_tokens",
    },
    "classification": {
        "segment": "a classifier reads every example in one update. Leave it out",
        "documents": "every example is a document of its own. Leave it out",
        "evaluation_by": "every example is evaluated by itself. Leave it out",
        "evaluation_sample": "all examples are evaluated, or a draw of train.evaluation_examples. Leave it out",
        "evaluation_block": "every example is evaluated by itself. Leave it out",
        "evaluation_tokens": "held-out splits are counted in examples. Set train.evaluation_examples, or leave it out",
    },
}
"""Keys of `train` that have no meaning under a task, and why."""


def check_corpus(task: Task, name: str, corpus: AnyCorpus) -> None:
    """Raises StudyError for a corpus of the other kind."""
    labelled = isinstance(corpus, LabelledCorpus)
    if labelled and task == "language":
        raise StudyError(
            f"data.corpus: {name} holds labelled examples, but task: language predicts text. Write task:"
            " classification, or name a corpus of text (vqscale data list)."
        )
    if not labelled and task == "classification":
        raise StudyError(
            f"data.corpus: {name} holds text without labels, but task: classification needs labelled examples. Name a"
            " labelled corpus (vqscale data list), make one with vqscale data prepare, or leave task out."
        )


def check_keys(task: Task, train: Mapping[str, Any]) -> None:
    """Raises StudyError for a setting of `train` that has no meaning under this task."""
    for key, why in _NOT_FOR[task].items():
        if key in train:
            raise StudyError(f"train.{key}: {train[key]!r} has no meaning for task: {task}: {why}.")


def classifier(corpus: LabelledCorpus, own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model that classifies the corpus's examples; `own`: those of the study. Raises StudyError."""
    of_tokens = corpus.labels == "token"
    values: dict[str, Any] = {"causal": of_tokens, "pooling": "none" if of_tokens else "mean"} | dict(own)
    if (values["pooling"] == "none") != of_tokens:
        what, instead = ("single tokens", "none") if of_tokens else ("whole sequences", "mean or last")
        raise StudyError(
            f"model.pooling: {values['pooling']!r} does not fit {corpus.uri}, which labels {what}. Use {instead}."
        )
    values |= {"classes": len(corpus.classes), "sequences": corpus.sequences, "real_inputs": corpus.real_inputs}
    return values


def training_tokens(corpus: AnyCorpus, context: int) -> int:
    """Tokens of one epoch. For labelled examples a nominal count: every sequence counts as `context` tokens."""
    examples_or_tokens = len(corpus.split("train"))
    return examples_or_tokens * (corpus.sequences * context if isinstance(corpus, LabelledCorpus) else 1)


def cut_notes(trials: Iterable[Trial], corpora: Mapping[str, AnyCorpus]) -> list[str]:
    """Notes on corpora with training examples that are longer than a context, and so are cut; `corpora` by URI."""
    notes: dict[str, None] = {}
    for trial in trials:
        corpus, context = corpora[trial.corpus], trial.train.context
        if not isinstance(corpus, LabelledCorpus):
            continue
        longest = corpus.manifest.splits["train"].lengths[-1]
        if longest > context:
            notes[
                f"{corpus.uri.rsplit('/', 1)[-1]}: training examples of up to {longest} tokens are cut to train.context"
                f" {context}: {'their last' if corpus.labels == 'token' else 'their first'} tokens are kept."
            ] = None
    return list(notes)


def evaluation_notes(trials: Iterable[Trial], corpora: Mapping[str, AnyCorpus]) -> list[str]:
    """Notes on held-out splits that are shorter than the evaluation; `corpora` by URI."""
    notes: dict[str, None] = {}
    for trial in trials:
        corpus, asked = corpora[trial.corpus], trial.train.evaluation_tokens
        if not isinstance(corpus, LabelledCorpus) and asked > (held_out := len(corpus.split("validation"))):
            name = corpus.uri.rsplit("/", 1)[-1]
            notes[
                f"{name}: the validation split holds {held_out:,} tokens: all of them are evaluated, not {asked:,}."
            ] = None
    return list(notes)


def other_text_notes(trials: Iterable[Trial]) -> list[str]:
    """Notes on corpora of which trials of long sequences are evaluated in larger blocks than the others are, which is
    other text."""
    blocks: dict[str, set[int]] = {}
    for trial in trials:
        train = trial.train
        if trial.task == "language" and (train.evaluation_sample, train.evaluation_by) == ("spread", "contiguous"):
            blocks.setdefault(trial.corpus, set()).add(train.evaluation_block_tokens)
    return [
        f"{uri.rsplit('/', 1)[-1]}: trials are evaluated on different held-out text, in blocks of"
        f" {' and '.join(f'{size:,}' for size in sorted(sizes))} tokens, so that no law is fitted to all of them. To"
        f" evaluate all on the same text, set train.evaluation_block: {max(sizes)}."
        for uri, sizes in blocks.items()
        if len(sizes) > 1
    ]

"""ListOps by its rules: an evaluator written apart from the generator agrees with every label."""

from statistics import median

import numpy as np
import pytest

from vqscale.data.corpus import open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.options import checked
from vqscale.data.shards import SPLITS
from vqscale.data.tasks.listops import LISTOPS_SYMBOLS, ListOps
from vqscale.errors import CorpusError

FUNCTIONS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def evaluate(ids: list[int]) -> tuple[int, int, int]:
    """Value, nesting and most arguments of an expression, by a stack of open operators."""
    stack: list[tuple[str, list[int]]] = [("", [])]
    depth = arguments = 0
    for symbol in (LISTOPS_SYMBOLS[token] for token in ids):
        if symbol in FUNCTIONS:
            stack.append((symbol, []))
            depth = max(depth, len(stack))
        elif symbol == "]":
            operator, values = stack.pop()
            assert len(values) >= 2
            arguments = max(arguments, len(values))
            stack[-1][1].append(FUNCTIONS[operator](values))
        else:
            stack[-1][1].append(int(symbol))
    assert len(stack) == 1
    [value] = stack[0][1]
    return value, depth, arguments


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> LabelledCorpus:
    out = str(tmp_path_factory.mktemp("listops") / "out")
    prepare_labelled(ListOps(seed=1, examples=(1500, 100, 100), length=(10, 120)), out)
    opened = open_corpus(out)
    assert isinstance(opened, LabelledCorpus)
    return opened


def test_listops_labels_are_the_values_of_the_expressions(corpus):
    for name in SPLITS:
        split = corpus.split(name)
        for index in range(len(split)):
            example = split.example(index)
            value, depth, arguments = evaluate(example.tokens[0].tolist())
            assert value == example.label
            assert depth <= 10
            assert arguments <= 10


def test_listops_lengths_fill_the_span(corpus):
    lengths = corpus.split("train").lengths
    assert (lengths.min(), lengths.max()) == (10, 120)
    assert len(np.unique(lengths)) > 90


def test_listops_examples_occur_once_in_all_splits(corpus):
    splits = [corpus.split(name) for name in SPLITS]
    texts = [split.example(index).tokens[0].tobytes() for split in splits for index in range(len(split))]
    assert len(set(texts)) == len(texts) == 1700


def test_listops_classes_and_operators_are_all_common(corpus):
    shares = np.array(corpus.manifest.splits["train"].class_counts) / 1500
    assert shares.min() > 0.04
    assert shares.max() < 0.25
    split = corpus.split("train")
    symbols = np.bincount(np.concatenate([split.example(index).tokens[0] for index in range(1500)]), minlength=16)
    assert symbols[0] == 0
    assert symbols[5] == symbols[1:5].sum()
    assert symbols[1:5].min() > 0.9 * symbols[1:5].mean()
    assert symbols[6:].min() > 0.9 * symbols[6:].mean()


def test_listops_seed_decides_the_corpus(tmp_path):
    def fingerprint(seed: int, out: str) -> str:
        return prepare_labelled(
            ListOps(seed=seed, examples=(20, 2, 2), length=(10, 50)), str(tmp_path / out)
        ).fingerprint

    assert fingerprint(0, "first") == fingerprint(0, "second") != fingerprint(1, "third")


def test_listops_default_lengths_are_those_of_long_range_arena(tmp_path):
    generator = ListOps(examples=(1, 1, 1))
    assert 500 < len(generator.draw("train", 0, 0).tokens[0]) < 2000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": (3, 50)}, "length: "),
        ({"length": (50, 20)}, "length: "),
        ({"examples": (10, 0, 10)}, "examples: "),
        ({"max_depth": 1}, "max_depth: "),
        ({"depth": 5}, "depth: "),
    ],
)
def test_listops_options_that_cannot_be_are_refused_by_name(options, message):
    with pytest.raises(CorpusError, match=message):
        checked(ListOps, **options)


def test_listops_lengths_that_no_tree_has_are_refused():
    with pytest.raises(CorpusError, match="Widen the range"):
        ListOps(length=(50, 60), max_depth=2).draw("train", 0, 0)


def test_listops_more_examples_than_there_are_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="Ask for fewer"):
        prepare_labelled(ListOps(examples=(900, 1, 1), length=(4, 4), max_depth=2, max_args=2), str(tmp_path / "out"))

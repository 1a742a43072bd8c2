"""Compressors in the report: a model is compared with those that have read the training text, on its own text."""

from typing import Any

import pandas as pd
import pytest

from vqscale.reporting.references import common, fair, found_for, label, size, text_of
from vqscale.reporting.tables import reference_table
from vqscale.results.references import References, parse_references

FINGERPRINT = "a291832cef032b57"
NEW = {
    f"{FINGERPRINT[:12]}/spread 131072 by 2048": {
        "evaluation_text": "spread 131072 by 2048",
        "evaluated_bytes": 131_072,
        "evaluated_documents": 3,
        "split_bytes": 2_529_556,
        "split_documents": 3,
        "training_bytes": 67_209_847,
        "read_bytes": 3_530_000,
        "levels": [
            {"by": "unigram", "text": "evaluated", "training_bytes": 0, "bpb": 4.4},
            {"by": "gzip", "text": "evaluated", "training_bytes": 0, "bpb": 3.1},
            {"by": "gzip", "text": "evaluated", "training_bytes": 32_768, "bpb": 3.0},
            {"by": "xz", "text": "evaluated", "training_bytes": 0, "bpb": 2.9},
            {"by": "xz", "text": "evaluated", "training_bytes": 66_000_000, "bpb": 2.2},
            {"by": "ppmd", "text": "evaluated", "training_bytes": 67_108_864, "bpb": 1.6},
            {"by": "ppmd", "text": "split", "training_bytes": 67_108_864, "bpb": 1.7},
        ],
    }
}
OLD = {f"{FINGERPRINT[:12]}/131072": {"bytes": 131_072, "unigram_bpb": 4.4, "gzip_bpb": 3.1, "xz_bpb": 2.9}}


def runs(text: str | None, **columns: Any) -> pd.DataFrame:
    rows = [
        {"arch": arch, "bpb": bpb, "status": "finished", "corpus": "novels", "corpus_fingerprint": FINGERPRINT}
        for arch, bpb in (("transformer_vq", 2.0), ("transformer_vq", 2.5), ("transformer", 2.4))
    ]
    table = pd.DataFrame(rows)
    return table.assign(evaluation_text=text, **columns) if text is not None else table


def test_compressors_that_may_be_compared_have_read_the_training_text() -> None:
    found = found_for(parse_references(NEW), runs("spread 131072 by 2048").iloc[0].to_dict())
    assert [label(one) for one in fair(found)] == [
        "PPMd after 67.1 MB of training text",
        "xz -9 after 66 MB of training text",
        "gzip -9 after 32.8 kB of training text",
    ]


@pytest.mark.parametrize("text", ["start 131072", None])
def test_compressors_of_an_earlier_version_are_compared_with_nothing(text: str | None) -> None:
    known, table = parse_references(OLD), runs(text)
    assert fair(common(known, table)) == []
    shown = reference_table(table, known)
    assert shown is not None
    names = {row[1][0]: row[4][0] for row in shown.rows}
    assert names == {
        "Transformer-VQ, best run": "",
        "Transformer, best run": "",
        "gzip -9 without the training text": "",
        "xz -9 without the training text": "",
        "unigram entropy of this text itself": "",
    }


def test_compressors_on_other_text_are_not_those_of_a_run() -> None:
    for text in ("spread 65536 by 2048", "start 131072"):
        table = runs(text)
        assert common(parse_references(NEW), table) is None
        assert reference_table(table, parse_references(NEW)) is None
    assert common(parse_references(NEW), runs("spread 131072 by 2048")) is not None
    mixed = pd.concat([runs("spread 131072 by 2048"), runs("start 131072")])
    assert common(parse_references(NEW | OLD), mixed) is None


def test_table_names_the_text_of_every_figure_and_compares_the_best_run_with_the_fair_ones() -> None:
    shown = reference_table(runs("spread 131072 by 2048"), parse_references(NEW))
    assert shown is not None
    rows = {(row[1][0], row[3][0]): (row[2][0], row[4][0]) for row in shown.rows}
    here, split = "as evaluated, 131 kB in 3 documents", "held-out split, 2.53 MB in 3 documents"
    assert rows["PPMd after 67.1 MB of training text", here] == ("1.6", "+25.0 %")
    assert rows["xz -9 after 66 MB of training text", here] == ("2.2", "-9.1 %")
    assert rows["gzip -9 without the training text", here][1] == ""
    assert rows["PPMd after 67.1 MB of training text", split][1] == ""  # not the text that the run was evaluated on
    assert [row[2][1] for row in shown.rows] == sorted(row[2][1] for row in shown.rows)


def test_text_of_a_figure_leaves_out_documents_that_are_not_known() -> None:
    (found,) = parse_references(OLD).values()
    assert text_of(found, found.levels[0]) == "as evaluated, 131 kB"
    one = References(evaluation_text="start 9", evaluated_bytes=9, evaluated_documents=1, levels=found.levels)
    assert text_of(one, found.levels[0]) == "as evaluated, 9 B in 1 document"
    assert [size(count) for count in (0, 999, 32_768, 67_108_864)] == ["0 B", "999 B", "32.8 kB", "67.1 MB"]

import pandas as pd
import pytest

from vqscale.laws import StudyFits
from vqscale.reporting import gather
from vqscale.reporting.charts.series import position_curves
from vqscale.reporting.section import TableBlock
from vqscale.reporting.sections import context


@pytest.fixture
def table(study_results):
    return pd.DataFrame([result.model_dump() for result in study_results])


def test_contexts_are_compared_at_the_positions_that_all_have(table):
    found = context.section(gather(study={}, table=table, fits=StudyFits()))
    shown = [block.table for block in found.blocks if isinstance(block, TableBlock)][-1]
    assert shown.headers[0] == "nats per token at"
    assert shown.headers[-2:] == ["128 to 255", "all of these"]
    series = {one.label: one for one in position_curves(table)}
    for row in shown.rows:
        one = series[str(row[0][1])]
        inside = [(end - start, nats) for (start, end), nats in zip(one.pieces, one.nats, strict=True) if end <= 256]
        assert row[-1][1] == pytest.approx(sum(width * nats for width, nats in inside) / 256)


def test_positions_of_different_text_are_not_compared(table):
    other = table[table["context"] == 256].assign(corpus_fingerprint="other")
    mixed = pd.concat([table[table["context"] != 256], other], ignore_index=True)
    assert {one.label for one in position_curves(mixed)} == {
        one.label for one in position_curves(table) if not one.label.endswith("T 256")
    }

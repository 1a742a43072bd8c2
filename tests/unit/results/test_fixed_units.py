import itertools

import pandas as pd
import pytest

from vqscale.errors import FitError
from vqscale.results.fixed_units import codes_in_use, loss_at_positions, mean_over_positions


def buckets(length, shift=0.0):
    borders = [0, 1, *(2**i for i in range(1, length.bit_length()) if 2**i < length), length]
    pairs = itertools.pairwise(borders)
    return [{"start": start, "end": end, "nats": 3.0 - 0.1 * index + shift} for index, (start, end) in enumerate(pairs)]


def table():
    return pd.DataFrame(
        {
            "name": ["short", "long", "failed"],
            "status": ["finished", "finished", "failed"],
            "arch": "transformer_vq",
            "codebook_size": [64, 128, 64],
            "context": [8, 32, 32],
            "corpus_fingerprint": "same",
            "loss_by_position": [buckets(8, 0.5), buckets(32), []],
            "code_perplexity": [48.0, 32.0, None],
        }
    )


def test_only_positions_that_all_runs_share_are_compared():
    found = loss_at_positions(table())
    assert set(found["name"]) == {"short", "long"}
    for name in ("short", "long"):
        edges = found[found["name"] == name][["start", "end"]].to_numpy().tolist()
        assert edges == [[0, 1], [1, 2], [2, 4], [4, 8]]
    assert found.set_index("name")["evaluated_over"].groupby("name").first().to_dict() == {"short": 8, "long": 32}
    gaps = found.pivot_table(index="start", columns="name", values="nats")
    assert (gaps["short"] - gaps["long"]).tolist() == pytest.approx([0.5] * 4)


def test_mean_over_a_range_counts_every_position_alike():
    found = mean_over_positions(loss_at_positions(table()), 2, 8).set_index("name")["nats"]
    assert found["long"] == pytest.approx((2 * 2.8 + 4 * 2.7) / 6)
    assert found["short"] == pytest.approx(found["long"] + 0.5)


def test_range_between_borders_is_refused():
    with pytest.raises(FitError, match="choose two of the borders 0, 1, 2, 4, 8"):
        mean_over_positions(loss_at_positions(table()), 0, 6)


def test_runs_of_different_text_share_no_positions():
    with pytest.raises(FitError, match="runs of 2 corpora"):
        loss_at_positions(table().assign(corpus_fingerprint=["one", "two", "two"]))
    odd = table()
    odd.at[0, "loss_by_position"] = [{"start": 0, "end": 7, "nats": 3.0}]
    with pytest.raises(FitError, match="no range of positions is common"):
        loss_at_positions(odd)
    with pytest.raises(FitError, match="no such column"):
        loss_at_positions(table().drop(columns="loss_by_position"))


def test_codes_in_use_stand_beside_the_codebook():
    found = codes_in_use(table()).set_index("name")
    assert found["effective_codes"].to_dict() == {"short": 48.0, "long": 32.0}
    assert found["share"].to_dict() == {"short": 0.75, "long": 0.25}
    assert codes_in_use(table().drop(columns="code_perplexity")).empty

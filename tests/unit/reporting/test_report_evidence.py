"""A reader's test: every number of the summary is in the evidence of its sentence, with seeds, texts and baselines."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from vqscale.laws import StudyFits
from vqscale.reporting import gather, write_report
from vqscale.reporting.claims.basis import TWO_THINGS, basis_of, seeds_of
from vqscale.reporting.claims.claim import Basis, Claim, fig, named
from vqscale.reporting.page import make_sections
from vqscale.reporting.summary.findings import best_run
from vqscale.reporting.summary.summary import numbered, summarise
from vqscale.reporting.trust import trust
from vqscale.results import read_table

NOVELS = Path(__file__).resolve().parents[3] / "experiments" / "novels" / "results.csv"
STUDY = {"study": "books", "question": "What does a codebook cost?"}


@pytest.fixture(scope="module")
def committed():
    return gather(study=STUDY, table=read_table(str(NOVELS)), fits=StudyFits())


@pytest.fixture(scope="module")
def novels(committed):
    """As its records were before they said what is held out, and before the window bias was trained."""
    later = ("evaluation_text", "evaluation_documents", "loss_error", "bpb_error", "loss_by_document")
    table = committed.table[committed.table["variant"].isna()]
    return gather(study=STUDY, table=table.drop(columns=[name for name in later if name in table]), fits=StudyFits())


@pytest.fixture(scope="module")
def fitted(isoflop_table, isoflop_fits):
    return gather(study=STUDY, table=isoflop_table, fits=isoflop_fits)


def claims_of(data):
    return [claim for part in summarise(data) for claim in part.claims]


@pytest.fixture(params=["committed", "fitted"])
def data(request):
    return request.getfixturevalue(request.param)


def test_every_number_of_a_sentence_is_a_figure_or_part_of_a_name(data):
    for claim in claims_of(data):
        left = claim.text
        for run in claim.basis.runs:
            left = left.replace(run, "")
        for one in sorted(claim.figures, key=lambda figure: -len(figure.text)):
            assert one.text in claim.text
            assert one.quantity
            left = left.replace(one.text, "")
        # What is left are names: contexts, sizes, codebooks, runs, levels of intervals.
        assert not re.search(r"\d\.\d|\d %|10[⁰-⁹]", re.sub(r"(90|1|95) %", "", left)), left


def test_a_sentence_with_a_number_that_its_claim_does_not_carry_cannot_be_made():
    basis = Basis()
    assert Claim.of(f"It is {fig(0.031, '3.1 %', 'share')} lower.", basis).figures[0].value == 0.031
    with pytest.raises(ValueError, match=r"'3\.1' in 'It is 3\.1 % lower\.': a number without its quantity"):
        Claim.of("It is 3.1 % lower.", basis)
    with pytest.raises(ValueError, match="a number without its quantity"):
        Claim.of(f"{named('d64x2')} is 3 times {fig(1.0, '1', 'share')}.", basis)


def test_figures_keep_their_values_unrounded():
    claim = Claim.of(f"{named('a')}: {fig(2 / 3, '0.67', 'share of a')}.", Basis())
    assert claim.text == "a: 0.67."
    assert claim.values()["figures"] == [{"text": "0.67", "value": 2 / 3, "quantity": "share of a"}]


def test_every_claim_about_losses_says_seeds_texts_and_baselines(data):
    for part in summarise(data)[:3]:
        for claim in part.claims:
            basis = claim.basis
            assert basis.runs or basis.measured
            if basis.runs and basis.held_out:
                assert basis.seeds is not None
                assert basis.training_tokens is not None
                assert basis.weakened_by


def test_evidence_on_the_page_and_in_its_file_is_that_of_the_summary(data, tmp_path):
    write_report(data, str(tmp_path))
    stored = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))
    found = [(one["number"], one["part"], one["claim"]) for one in stored["claims"]]
    assert found == [(place, part, claim.text) for place, part, claim in numbered(summarise(data))]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (section,) = (one for one in make_sections(data) if one.id == "evidence")
    items = section.blocks[1].items
    for item, one in zip(items, stored["claims"], strict=True):
        assert f'id="claim-{item.number}"' in page
        assert f'href="#claim-{item.number}"' in page
        lines = dict(item.entries)
        assert [line.split(": ")[0] for line in lines.get("Numbers", [])] == [
            figure["text"] for figure in one["figures"]
        ]
        assert lines["Weakened by"] == (one["weakened_by"] or ["nothing that the records show"])


def test_first_sentence_compares_with_the_full_attention_baseline_in_the_unit_of_the_study(novels):
    (answer, *_) = summarise(novels)
    first = answer.claims[0]
    assert answer.title == "Answer"
    table = novels.table[novels.table["status"] == "finished"]
    keys = ["preset", "context", "tokens", "seed"]
    sides = [table[table["arch"] == arch].sort_values("bpb").drop_duplicates(keys) for arch in
             ("transformer_vq", "transformer_full")]  # fmt: skip
    pairs = sides[0].merge(sides[1], on=keys, suffixes=("", "_full"))
    apart = (pairs["bpb"] - pairs["bpb_full"]).mean()
    assert first.text.startswith(
        f"Transformer-VQ has {abs(apart):.3g} bits per byte lower loss"
        f" ({100 * abs((pairs['bpb'] / pairs['bpb_full'] - 1).mean()):.1f} %) than Full-attention baseline"
    )
    assert TWO_THINGS in first.basis.weakened_by
    assert first.basis.baselines == ("Full-attention baseline",)
    assert len(first.basis.runs) == 2 * len(pairs)
    for context in (256, 512, 1024):
        assert f"times at T = {context:,} (" in answer.claims[1].text
    assert "break-even length not measured" in answer.claims[1].text


def test_best_codebook_by_one_seed_says_so_with_the_spread_measured_elsewhere(novels, fitted):
    for data in (novels, fitted):
        (text,) = (one.text for one in claims_of(data) if one.text.startswith("Best codebook size"))
        assert re.search(
            r"one seed: chance unknown here, \d\.\d\d % between seeds elsewhere in this study \(\d+ runs at", text
        )
        assert "error over held-out text unknown" in text
    alone = novels.table[novels.table["seed"] == 0]
    found = claims_of(gather(study=STUDY, table=alone, fits=StudyFits()))
    (text,) = (one.text for one in found if one.text.startswith("Best codebook size"))
    assert "; one seed: chance unknown;" in text


def test_what_is_missing_is_named(novels, fitted):
    (text,) = (" ".join(part.sentences) for part in summarise(novels) if part.title == "What is missing")
    for expected in (
        "Several seeds at 20 of",
        "quantisation alone",
        "held-out documents",
        "No price",
        "not timed",
        "No law",
    ):
        assert expected in text
    priced = gather(study=STUDY | {"resources": {"price_per_device_hour": 2.0}}, table=fitted.table, fits=fitted.fits)
    (text,) = (" ".join(part.sentences) for part in summarise(priced) if part.title == "What is missing")
    assert "No price" not in text
    assert "No law" not in text


def test_marked_law_is_named_with_its_mark_in_every_sentence_and_never_extrapolated(fitted):
    fits = [fit.model_copy(update={"marks": ["a mark of this test"]}) for fit in fitted.fits.fits]
    marked = gather(study=STUDY, table=fitted.table, fits=fitted.fits.model_copy(update={"fits": fits}))
    by_title = {part.title: part for part in summarise(marked)}
    sizes = [one for one in by_title["Findings"].claims if one.text.startswith("Best size")]
    assert len(sizes) == len(marked.leading) > 0
    factors = [one for one in by_title["Findings"].claims if "For the same loss" in one.text]
    for claim in (*sizes, *factors):
        assert re.search(r"marked: (a mark of this test|the laws of .*, see Confidence)\)", claim.text)
    assert "times the largest budget should bring" not in " ".join(by_title["Whether to continue"].sentences)
    assert not any(trust(fit).extrapolates for fit in marked.leading)
    for claim in claims_of(marked):
        if any("law chinchilla" in text for text in [claim.basis.measured]):
            assert any("a mark of this test" in text for text in claim.basis.weakened_by)


def test_law_beaten_by_one_baseline_is_used_within_its_runs_and_not_beyond(fitted):
    assert any("times the largest budget should bring" in one.text for one in claims_of(fitted))
    fits = []
    for fit in fitted.fits.fits:
        held = fit.holdout.model_copy(update={"baselines": {"last value": 1e-9, "power law": 1.0}})
        fits.append(fit.model_copy(update={"holdout": held, "marks": []}))
    beaten = gather(study=STUDY, table=fitted.table, fits=fitted.fits.model_copy(update={"fits": fits}))
    texts = [one.text for one in claims_of(beaten)]
    assert any(text.startswith("Best size") for text in texts)
    assert not any("times the largest budget should bring" in text for text in texts)
    assert any(re.search("(its law|their laws) may not be extrapolated", text) for text in texts)


@pytest.mark.parametrize(
    ("seeds", "sizes", "text"),
    [
        ([0], ["a"], "one seed"),
        ([0, 1, 2], ["a", "a", "a"], "3 seeds"),
        ([0, 0], ["a", "b"], "one seed at every point"),
        ([0, 1, 0], ["a", "a", "b"], "up to 2 seeds at 1 of 2 points, one at the others"),
    ],
)
def test_seeds_are_counted_by_point(seeds, sizes, text):
    assert str(seeds_of(pd.DataFrame({"seed": seeds, "preset": sizes}))) == text


def test_basis_names_one_document_few_documents_and_unknown_ones(novels):
    for documents, expected in (
        (1.0, "one held-out document"),
        (3.0, "3 held-out documents"),
        (None, "not in the records"),
    ):
        rows = novels.table.head(4).assign(evaluation_documents=documents)
        notes = basis_of(novels, rows).weakened_by
        assert any(expected in note for note in notes)
    many = basis_of(novels, novels.table.head(4).assign(evaluation_documents=40.0))
    assert many.documents == 40
    assert not any("document" in note for note in many.weakened_by)


def test_table_with_three_columns_alone_gives_a_page_whose_claims_name_what_it_lacks(tmp_path):
    table = pd.DataFrame(
        {"loss": [3.0, 2.6, 2.4], "parameters_non_embedding": [1e6, 4e6, 1.6e7], "tokens": [1e8, 4e8, 1e9]}
    )
    data = gather(study={"study": "t.csv", "question": ""}, table=table, fits=StudyFits())
    texts = " ".join(one.text for one in claims_of(data))
    assert "row 2 (16M parameters, 1G training tokens), reaches 2.4 nats per token" in texts
    assert "Seeds are not in the table" in texts
    assert "no baseline: nothing here compares architectures" in texts
    write_report(data, str(tmp_path))
    assert json.loads((tmp_path / "evidence.json").read_text())["question"] is None


def test_table_without_a_known_loss_says_how_to_name_it():
    table = pd.DataFrame({"name": ["a"], "status": ["finished"], "loss_c4_v2": [2.5]})
    claims = [claim.text for claim in best_run(gather(study={}, table=table, fits=StudyFits()))]
    assert len(claims) == 1
    assert "--metric COLUMN" in claims[0]

"""The page of Markdown about a classification study."""

import pytest

from benchmarks.accuracy import main, page
from vqscale.errors import StudyError
from vqscale.results.table import read_table, write_table


@pytest.fixture
def table(make_classifier_run, tmp_path):
    runs = [make_classifier_run("longvq", seed=seed, accuracy=0.8 + 0.05 * seed) for seed in range(3)]
    runs += [make_classifier_run("mega", seed=seed, accuracy=0.9 + 0.05 * seed) for seed in range(2)]
    write_table(runs, str(tmp_path / "results.parquet"))
    return str(tmp_path / "results.parquet")


def test_accuracy_page_gives_mean_spread_and_paired_difference(table):
    text = page(read_table(table), "A task", "the command")
    accuracies = text.partition("## ")[0].splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in accuracies if line.startswith("| ")}
    assert text.startswith("# A task\n")
    assert "`the command`" in text
    assert "85.0 % ± 5.0" in rows["LongVQ"]
    # Seeds 0 and 1 are in both, and differ by 10 points each.
    assert "+10.0 [+10.0, +10.0]" in rows["Mega"]


def test_accuracy_page_compares_with_the_model_that_is_named(table):
    text = page(read_table(table), "A task", "the command", against="Mega")
    assert "minus Mega" in text
    with pytest.raises(StudyError, match=r"no model of this table\. It has Mega; LongVQ"):
        page(read_table(table), "A task", "the command", against="mega")


def test_accuracy_page_of_language_models_is_refused(study_results, tmp_path):
    write_table(study_results, str(tmp_path / "results.parquet"))
    with pytest.raises(StudyError, match="classification study"):
        page(read_table(str(tmp_path / "results.parquet")), "A task", "the command")


def test_accuracy_page_is_written_where_it_was_asked_for(table, tmp_path):
    main([table, "--out", str(tmp_path / "page.md"), "--title", "A task"])
    assert "python -m benchmarks.accuracy" in (tmp_path / "page.md").read_text()


def test_accuracy_page_of_two_corpora_compares_within_each(make_classifier_run, tmp_path):
    easy, hard = ({"corpus": name, "corpus_fingerprint": name * 16} for name in ("easy", "hard"))
    runs = [make_classifier_run("longvq", accuracy=0.9, **easy), make_classifier_run("mega", accuracy=0.8, **easy)]
    runs += [make_classifier_run("longvq", accuracy=0.7, **hard), make_classifier_run("mega", accuracy=0.7, **hard)]
    write_table(runs, str(tmp_path / "results.parquet"))
    facts, first, second = page(read_table(str(tmp_path / "results.parquet")), "A task", "x").split("\n## ")
    assert "gives 60.0 % on easy (easyeasyeasy); always naming" in facts
    assert first.startswith("easy (easyeasyeasy)")
    assert "| 80.0 % |  | -10.0 |" in first
    assert "| 70.0 % |  | +0.0 |" in second
    assert first.count("### Tokens of the example") == second.count("### Tokens of the example") == 1

"""The page of a study of classifiers: accuracy over seeds, by length, and what is confused; nothing of it elsewhere."""

import pandas as pd
import pytest

from vqscale.laws import StudyFits
from vqscale.reporting import figures, gather, write_report
from vqscale.reporting.page import make_sections
from vqscale.reporting.section import Charts, TableBlock
from vqscale.reporting.sections.classes import over_seeds
from vqscale.reporting.summary.summary import summarise
from vqscale.results import read_table, write_table


@pytest.fixture
def report_data_of(tmp_path):
    def make(runs):
        write_table(runs, str(tmp_path / "results.parquet"))
        table = read_table(str(tmp_path / "results.parquet"))
        return gather(study={"study": "labelled", "question": ""}, table=table, fits=StudyFits())

    return make


@pytest.fixture
def runs(make_classifier_run):
    made = [make_classifier_run(seed=seed, accuracy=accuracy) for seed, accuracy in ((0, 0.8), (1, 0.9))]
    made += [make_classifier_run("transformer", accuracy=0.7), make_classifier_run(accuracy=0.6, variant="causal")]
    return made


def section_of(data):
    return next(one for one in make_sections(data) if one.id == "classes")


def test_accuracy_table_gives_mean_and_spread_over_seeds_of_every_variant(report_data_of, runs):
    table, confusion = (one.table for one in section_of(report_data_of(runs)).blocks if isinstance(one, TableBlock))
    column = {name: place for place, name in enumerate(table.headers)}
    rows = [[cell[0] for cell in row] for row in table.rows]
    assert [row[column["model"]] for row in rows] == ["Transformer-VQ", "Transformer", "Transformer-VQ, causal"]
    assert rows[0][column["accuracy"]] == "85.0 % ± 7.1"
    assert rows[0][column["lowest to highest"]] == "80.0 % to 90.0 %"
    assert rows[1][column["accuracy"]] == "70.0 %"
    assert rows[0][column["test"]] == "83.0 %"
    confused = [[cell[0] for cell in row] for row in confusion.rows]
    assert confused == [["ham", "60", "0", "100.0 %"], ["spam", "10", "30", "75.0 %"]]
    assert confusion.headers == ["class", "as ham", "as spam", "recall"]


def test_runs_that_differ_in_a_setting_without_a_column_are_no_seeds_of_each_other(make_classifier_run):
    runs = [
        make_classifier_run("longvq", seed=seed, accuracy=accuracy, setup=setup)
        for setup, accuracy in (("aaaaaaaa", 0.9), ("bbbbbbbb", 0.5))
        for seed in range(2)
    ]
    groups = over_seeds(pd.DataFrame([run.model_dump() for run in runs]))
    assert [(one.label, len(one.rows), one.mean("accuracy")) for one in groups] == [
        ("LongVQ, setup aaaaaa", 2, 0.9),
        ("LongVQ, setup bbbbbb", 2, 0.5),
    ]


def test_models_that_differ_in_block_length_have_labels_that_say_so(report_data_of, make_classifier_run):
    runs = [make_classifier_run(block_length=length, accuracy=0.6 + length / 1000) for length in (64, 32)]
    table = next(one.table for one in section_of(report_data_of(runs)).blocks if isinstance(one, TableBlock))
    assert [row[0][0] for row in table.rows] == ["Transformer-VQ, L 64", "Transformer-VQ, L 32"]


def test_accuracy_by_length_pools_the_labels_of_all_seeds(report_data_of, runs):
    (charts,) = (one for one in section_of(report_data_of(runs)).blocks if isinstance(one, Charts))
    size, length = charts.panels
    assert size.levels[0].y == pytest.approx(60.0)
    assert size.levels[0].label == "the most frequent class"
    vq = next(layer for layer in length.layers if layer.label == "Transformer-VQ")
    assert vq.y == pytest.approx([100.0, 100 * (40 + 50) / 120])


def test_summary_names_the_most_accurate_model_and_what_a_constant_prediction_reaches(report_data_of, runs):
    found = {part.title: " ".join(part.sentences) for part in summarise(report_data_of(runs))}["Answer"]
    assert "Transformer-VQ, mean of 2 seeds, predicts 85.0 % (± 7.1 between seeds) of the held-out labels" in found
    assert "error over held-out examples unknown" in found
    assert "the most frequent class reaches 60.0 %" in found


def test_page_of_classifiers_is_written_with_a_figure_for_every_chart(report_data_of, runs, tmp_path):
    data = report_data_of(runs)
    write_report(data, str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "nats per label" in page
    assert "bits per byte" not in page
    assert {"accuracy", "accuracy_by_length"} <= {one.name for one in figures(data)}


def test_page_of_language_models_has_no_section_for_classifiers(report_data_of, study_results):
    assert "classes" not in {one.id for one in make_sections(report_data_of(study_results))}

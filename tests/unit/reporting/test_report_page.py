import base64
import gzip
import json
import re

import pandas as pd
import pytest

from vqscale.laws import StudyFits, fit_study
from vqscale.reporting import gather, write_figures, write_report
from vqscale.reporting.charts.style import power
from vqscale.reporting.summary.spending import spending_claims
from vqscale.results import read_table, write_table

STUDY = {"study": "quickstart", "question": "Does size help <here>?"}


@pytest.fixture(scope="module")
def table(study_results, tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("study") / "results.parquet")
    write_table(study_results, uri)
    return read_table(uri)


@pytest.fixture(scope="module")
def fits(table):
    return fit_study(table, ["power_n", "chinchilla"], bootstrap=20)


@pytest.fixture(scope="module")
def page(table, fits, references, throughput, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    made = gather(study=STUDY, table=table, fits=fits, references=references, throughput=throughput)
    write_report(made, str(folder))
    return (folder / "report.html").read_text(encoding="utf-8")


def without_scripts(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_page_loads_nothing_from_elsewhere(page):
    text = without_scripts(page)
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page[:5000])
    assert "http" not in text
    (packed,) = re.findall(r'<script type="application/gzip" id="plotly">(.*?)</script>', page)
    assert gzip.decompress(base64.b64decode(packed))[:40].decode().startswith("/**\n* plotly.js v")


def test_page_escapes_what_users_and_errors_say(page):
    assert "Does size help &lt;here&gt;?" in page
    assert "worker died: &lt;out of memory&gt;" in page


def test_page_charts_are_valid_json_with_points(page):
    charts = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    titles = [chart["title"] for chart in charts]
    assert "Held-out loss against training compute (bits per byte)" in titles
    assert "power_n: L = E + A N^-alpha" in titles
    assert all(chart["data"] for chart in charts)


def test_page_names_failures_references_and_method(page):
    text = without_scripts(page)
    for expected in ("loss is NaN at step 40", "gzip -9", "unigram entropy", "sum of Huber losses", "2.60.0"):
        assert expected in text


def test_summary_agrees_with_the_numbers(page, table):
    text = without_scripts(page)
    best = table.loc[table["bpb"].idxmin()]
    assert f"{best['name']}, reaches {best['bpb']:.4g} bits per byte" in text
    assert "At T = 32,768 Transformer-VQ trains 4.09 x [4.09, 4.09] as fast as Transformer; break-even at T =" in text
    assert "Full-attention baseline has no speed to compare with (out of memory)" in text
    assert re.search(
        r"higher loss \([\d.]+ %\) than Transformer at equal preset, context, tokens and seed \(5 pairs", text
    )


def test_summary_counts_updates_of_shared_prefixes_once(table, fits):
    halved = table.assign(shared_steps=table["steps"] / 2)
    (alone,), (half,) = (
        [claim.text for claim in spending_claims(gather(study=STUDY, table=one, fits=fits))] for one in (table, halved)
    )
    assert "counted once" in half
    assert "counted once" not in alone
    assert power(float(table.loc[table["status"] == "finished", "flops"].sum()) / 2) in half


def test_page_of_a_study_without_results_says_so(table, tmp_path):
    write_report(gather(study=STUDY, table=table.iloc[:0], fits=StudyFits()), str(tmp_path))
    text = without_scripts((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "No run has finished" in text
    assert "Fitted laws" not in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_page_of_a_table_from_elsewhere_shows_what_there_is(tmp_path):
    table = pd.DataFrame({"loss": [3.0, 2.6, 2.4, 2.3], "parameters_non_embedding": [1e6, 4e6, 1.6e7, 6.4e7]})
    fits = fit_study(table, ["power_n"], bootstrap=0)
    write_report(gather(study={"study": "published.csv", "question": ""}, table=table, fits=fits), str(tmp_path))
    text = without_scripts((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "published.csv" in text
    assert "Speed" not in text


def test_figures_are_png_files_for_every_law_and_measurement(table, fits, throughput, tmp_path):
    written = write_figures(gather(study=STUDY, table=table, fits=fits, throughput=throughput), str(tmp_path))
    names = sorted(uri.rsplit("/", 1)[-1] for uri in written)
    laws, speed = ["chinchilla", "power_n"], ["throughput", "throughput_ratio", "throughput_time"]
    expected = ["frontier", "holdout", "loss_by_position", "training_speed", *laws, *speed]
    assert set(names) > {f"{name}.png" for name in expected}
    assert len(names) == len(set(names))
    for name in names:
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")

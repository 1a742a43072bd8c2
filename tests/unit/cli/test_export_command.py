"""`vqscale export`: the same constants in every format, each with what it rests on."""

import io
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.errors import FitError, StorageError
from vqscale.laws import Fit, StudyFits
from vqscale.laws.io.latex import escape


@pytest.fixture(scope="module")
def exported(fitted_study: Any) -> Path:
    done = CliRunner().invoke(app, ["export", str(fitted_study.folder)])
    assert done.exit_code == 0, done.output
    return fitted_study.folder / "export"


@pytest.fixture(scope="module")
def fits(exported: Path) -> list[Fit]:
    return StudyFits.model_validate_json((exported / "fits.json").read_text()).fits


def test_export_writes_every_format(exported: Path) -> None:
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert {"fits.json", "fits.csv", "fits.parquet", "fits.tex", "results.csv", "results.parquet"} <= names
    assert {path.suffix for path in (exported / "figures").iterdir()} == {".png", ".svg"}


def test_json_is_valid_by_the_documented_schema(exported: Path) -> None:
    schema = json.loads((Path(__file__).resolve().parents[3] / "docs/reference/fits.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(json.loads((exported / "fits.json").read_text()))) == []


def test_csv_and_parquet_hold_every_constant_with_what_it_rests_on(exported: Path, fits: list[Fit]) -> None:
    left, right = pd.read_csv(exported / "fits.csv"), pd.read_parquet(exported / "fits.parquet")
    left["marks"] = left["marks"].astype(object).fillna("")  # an empty text is a missing value in CSV
    pd.testing.assert_frame_equal(left, right, check_dtype=False)
    assert left[["fit", "data_hash", "versions"]].notna().all(axis=None)
    for fit in fits:
        rows = left[(left["fit"] == fit.id) & left["cost"].isna()].set_index("constant")
        assert dict(rows["value"]) == pytest.approx(fit.parameters | fit.derived)
        assert set(rows["data_hash"]) == {fit.data_hash}
        assert rows.loc["alpha", "low90"] == pytest.approx(fit.intervals["alpha"].low90)


def test_latex_is_balanced_booktabs_with_comments(exported: Path, fits: list[Fit]) -> None:
    text = (exported / "fits.tex").read_text()
    for fit in fits:
        assert f"% fit {fit.id}, table sha256 {fit.data_hash}, vqscale " in text
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert tables
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(tables)
    for columns, body in tables:
        lines = [line for line in body.splitlines() if not line.startswith("%")]
        rules = [line for line in lines if line.startswith("\\")]
        assert (rules[0], set(rules[1:-1]), rules[-1]) == (r"\toprule", {r"\midrule"}, r"\bottomrule")
        rows = [line for line in lines if not line.startswith("\\")]
        assert all(line.endswith(r" \\") for line in rows)
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows} == {len(columns)}
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert code.count("{") - code.count(r"\{") == code.count("}") - code.count(r"\}")
    assert len(re.findall(r"(?<!\\)\$", code)) % 2 == 0
    outside = re.sub(r"(?<!\\)\$.*?(?<!\\)\$", "", re.sub(r"\\label\{.*?\}", "", code))
    assert not re.search(r"(?<!\\)[_^#]", outside)


def test_latex_shows_what_text_says(fits: list[Fit]) -> None:
    assert escape(r"50% of a_b & {c}^2 \x") == r"50\% of a\_b \& \{c\}\textasciicircum{}2 \textbackslash{}x"


def test_figures_say_in_their_metadata_what_they_rest_on(exported: Path, fits: list[Fit]) -> None:
    figures = list((exported / "figures").iterdir())
    images = (Image.open(io.BytesIO(path.read_bytes())).info for path in figures if path.suffix == ".png")
    in_png = "".join(info.get("Description", "") for info in images)
    in_svg = "".join(path.read_text() for path in figures if path.suffix == ".svg")
    for fit in fits:
        assert all(f"fit {fit.id}, table sha256 {fit.data_hash}" in said for said in (in_png, in_svg))


def test_results_are_the_same_runs_in_both_formats(exported: Path, finished_study: Any) -> None:
    left, right = pd.read_csv(exported / "results.csv"), pd.read_parquet(exported / "results.parquet")
    kept = pd.read_csv(finished_study.folder / "results.csv")
    pd.testing.assert_frame_equal(left, kept)
    assert list(left["trial_id"]) == list(right["trial_id"]) == list(kept["trial_id"])
    assert json.loads(right["parameter_groups"][0]) == json.loads(kept["parameter_groups"][0])


def test_export_takes_only_what_was_asked_for(exported: Path, finished_study: Any, tmp_path: Path) -> None:
    words = ["export", str(finished_study.folder), "--fits", str(exported), "--format", "latex", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(done.stdout) == [str(tmp_path / "fits.tex")]
    assert [path.name for path in tmp_path.iterdir()] == ["fits.tex"]


@pytest.mark.parametrize(("words", "error"), [(["--format", "xls"], FitError), ([], StorageError)])
def test_export_of_an_unknown_format_or_without_fits_is_refused(
    words: list[str], error: type, finished_study: Any, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["export", str(finished_study.folder), "--fits", str(tmp_path), *words])
    assert isinstance(done.exception, error)

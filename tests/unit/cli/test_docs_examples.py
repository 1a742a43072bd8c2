"""Commands in the how-to pages are run as they stand, in a folder that holds what they name."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app

HOW_TO = Path(__file__).resolve().parents[3] / "docs" / "how-to"
COMMANDS = ("plan", "fit", "predict", "next", "export", "report")


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of some languages."""
    text = (HOW_TO / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def examples(page: str) -> list[str]:
    """The command lines of a page that can be run without a cluster, in its order."""
    lines = [line for block in blocks(page, "sh", "") for line in block.splitlines()]
    return [line for line in lines if re.match(rf"vqscale ({'|'.join(COMMANDS)}) ", line)]


PAGES = [page.name for page in sorted(HOW_TO.glob("*.md")) if examples(page.name)]


@pytest.fixture
def workspace(
    corpus_uri: str, tmp_path: Path, write_study: Any, finished_study: Any, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """study.yaml, its finished runs in runs/books, tables from elsewhere, a throughput study, a study of logs."""
    study = write_study(tmp_path / "study.yaml", corpus_uri, resources={"price_per_device_hour": 0.5})
    shutil.copytree(finished_study.folder, study.folder)
    shutil.copy(tmp_path / "study.yaml", Path(study.folder) / "study.yaml")
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    runs = {"N": n, "D": d, "final": 1.8 + 480 * n**-0.35 + 2100 * d**-0.37}
    web, code = {"dataset": "web"}, {"dataset": "code", "final": runs["final"] - 1}
    pd.concat([pd.DataFrame(runs | web), pd.DataFrame(runs | code)]).to_csv(tmp_path / "published.csv", index=False)
    exported = {"config.n_params": n, "config.tokens": d, "train/loss": runs["final"] - 0.1, "val/loss": runs["final"]}
    named = {"Name": [f"run-{row}" for row in range(len(n))], "State": ["finished"] * len(n)}
    pd.DataFrame(named | exported).to_csv(tmp_path / "runs.csv", index=False)
    points = {"size_of_model": n / 1e6, "D": d / 1e9, "c4_loss": runs["final"]}
    pd.DataFrame(points).to_csv(tmp_path / "points.csv", index=False)
    (tmp_path / "speed.yaml").write_text(blocks("measure-throughput.md", "yaml")[0].replace("cuda", "cpu"))
    logs = blocks("logs.md", "yaml")[0].replace("corpora/logs", corpus_uri)
    (tmp_path / "logs.yaml").write_text(logs.replace(", evaluation_tokens: 65_536", ""))  # a small corpus has fewer
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pages_that_plan_and_decide_have_examples() -> None:
    assert {"plan-a-scaling-study.md", "decide-with-a-fit.md", "measure-throughput.md"} <= set(PAGES)
    assert {line.split()[1] for page in PAGES for line in examples(page)} == set(COMMANDS)


@pytest.mark.usefixtures("workspace")
def test_page_of_foreign_tables_shows_what_is_printed() -> None:
    done = CliRunner().invoke(app, ["fit", "runs.csv", "--law", "chinchilla", "--bootstrap", "0"])
    (shown,) = (block for block in blocks("tables-from-elsewhere.md", "") if block.startswith("runs.csv"))
    assert " ".join(shown.split()) in " ".join(done.output.split())


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("workspace")
def test_examples_of_a_page_run_as_they_stand(page: str) -> None:
    for line in examples(page):
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"

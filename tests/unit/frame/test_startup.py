"""What is loaded before it is needed: start-up stays fast only as long as nobody imports torch for four integers."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "deepspeed", "mlflow", "scipy", "matplotlib", "pandas", "pyarrow", "transformers")
PROGRAM = "import sys\n{statement}\nprint(*(name for name in {heavy} if name in sys.modules))"


def loaded(statement: str) -> set[str]:
    """Which of `HEAVY` a fresh interpreter has loaded after a statement."""
    program = PROGRAM.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HELP = """
import contextlib, io
from typer.testing import CliRunner
from vqscale.cli.main import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
assert CliRunner().invoke(app, ["frobnicate"]).exit_code == 2
"""


@pytest.mark.parametrize(
    "statement", [HELP, "import vqscale", "import vqscale.study.spec, vqscale.study.throughput_study"]
)
def test_help_and_studies_load_nothing_heavy(statement: str) -> None:
    assert loaded(statement) & {"torch", "ray", "deepspeed", "mlflow", "scipy", "matplotlib", "pandas"} == set()


@pytest.mark.parametrize(
    "package",
    ["vqscale.results", "vqscale.reporting", "vqscale.laws", "vqscale.costing.counts", "vqscale.costing.facts"],
)
def test_tables_laws_and_counts_load_neither_torch_nor_ray(package: str) -> None:
    assert loaded(f"import {package}") & {"torch", "ray", "deepspeed", "mlflow", "scipy", "matplotlib"} == set()


def test_planning_loads_no_torch(corpus_uri: str) -> None:
    values = {
        "study": "light",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
        "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01},
        "sweep": [{"model.arch": ["transformer_vq", "transformer", "transformer_full", "gla", "longvq", "mega"]}],
        "storage": "/tmp/nowhere",
    }
    statement = (
        "from vqscale.study.spec import parse_study\nfrom vqscale.planning.plan import plan\n"
        f"assert len(plan(parse_study({values!r}, source='test')).trials) == 6"
    )
    assert loaded(statement) & {"torch", "ray", "deepspeed", "mlflow", "scipy", "matplotlib"} == set()


def test_workflow_of_a_run_loads_no_ray() -> None:
    """The driver that talks to Ray is another process: nothing of a run needs Ray in the caller's."""
    statement = "import vqscale.workflow.study, vqscale.workflow.autotune, vqscale.workflow.throughput, vqscale.api"
    assert "ray" not in loaded(statement)

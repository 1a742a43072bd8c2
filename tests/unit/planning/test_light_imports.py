"""What is imported to read a study, plan it and read its results: nothing that takes seconds to load."""

import pkgutil
import subprocess
import sys

import pytest

import vqscale.costing
import vqscale.planning
import vqscale.results
import vqscale.study

TRAINING = {"torch", "vqkernels", "ray", "deepspeed", "mlflow", "tokenizers", "s3fs", "PIL"}
ANALYSIS = {"pandas", "pyarrow", "scipy", "matplotlib", "plotly"}


@pytest.mark.parametrize(
    "package", [vqscale.study, vqscale.results, vqscale.costing, vqscale.planning], ids=lambda one: one.__name__
)
def test_package_loads_no_library_of_training_or_analysis(package) -> None:
    names = [f"{package.__name__}.{one.name}" for one in pkgutil.iter_modules(package.__path__)]
    # Predictions need fitted laws; next_study reads their optima.
    names = [name for name in names if name != "vqscale.planning.pending_predictions"]
    code = f"import sys, {', '.join(names)}; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & (TRAINING | ANALYSIS) == set()

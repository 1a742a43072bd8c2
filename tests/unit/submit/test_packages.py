"""What travels with a submitted study: the packages that are imported here, whole, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import vqkernels
import vqscale
from vqscale.submit.jobs import package_files, platform_packages


def test_packages_are_those_that_are_imported_here() -> None:
    assert platform_packages() == [Path(vqscale.__file__).parent, Path(vqkernels.__file__).parent]


def test_package_files_hold_templates_and_no_bytecode() -> None:
    files = [path for package in platform_packages() for path in package_files(package)]
    names = {path.name for path in files}
    assert {"report.html.j2", "py.typed", "jobs.py"} <= names
    assert not [path for path in files if path.suffix == ".pyc" or "__pycache__" in path.parts]


def test_packages_copied_elsewhere_are_what_gets_imported_with_their_version(tmp_path: Path) -> None:
    for package in platform_packages():
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    program = "import vqscale, vqkernels; print(vqscale.__file__, vqkernels.__file__, vqscale.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    scale, kernels, version = done.stdout.split()
    assert Path(scale).is_relative_to(tmp_path)
    assert Path(kernels).is_relative_to(tmp_path)
    assert version == vqscale.__version__

"""The guards of the house: names that must not be shadowed, words that must not appear, commands that exist."""

import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_platform_from_the_root_means_the_standard_library() -> None:
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == platform.python_version()


@pytest.mark.parametrize("folder", [".", "platform", "kernels", "tests", "tests/unit", "tests/integration"])
def test_source_roots_hold_no_init(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_constraints_pin_every_dependency_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line) for line in lines)
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(w for extra in project["optional-dependencies"].values() for w in extra)]
    names = {re.match(r"[A-Za-z0-9_-]+", want)[0].lower().replace("_", "-") for want in wanted}  # type: ignore[index]
    assert names - pinned == set()


def test_tests_folders_hold_no_init_and_unique_names() -> None:
    tests = [path for path in tracked_files() if "tests" in path.relative_to(ROOT).parts and path.suffix == ".py"]
    assert not [path for path in tests if path.name == "__init__.py"]
    names = [path.name for path in tests if path.name.startswith("test_")]
    assert len(names) == len(set(names))


def test_python_files_open_with_a_docstring() -> None:
    sources = [path for folder in ("platform", "kernels") for path in (ROOT / folder).rglob("*.py")]
    sources = [path for path in sources if path.read_text().strip()]
    silent = [path for path in sources if not path.read_text().startswith('"""')]
    assert silent == []

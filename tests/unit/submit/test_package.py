import csv
import hashlib
import importlib.metadata
import io
import os
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from email import message_from_string
from pathlib import Path

import pytest

from vqscale.submit import package
from vqscale.submit.package import build_wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_built_twice_has_the_same_name_and_bytes(built, tmp_path):
    again = build_wheel(tmp_path)
    assert (again.name, again.read_bytes()) == (built.name, built.read_bytes())


def test_wheel_of_other_content_has_another_name(built, tmp_path, monkeypatch):
    extra = tmp_path / "extra.html"
    extra.write_text("a template")
    files = package._package_files()
    monkeypatch.setattr(package, "_package_files", lambda: [*files, ("vqscale/extra.html", extra)])
    assert build_wheel(tmp_path).name != built.name


def test_wheel_record_lists_every_file_with_its_hash(built):
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
        assert sorted(rows) == sorted(names)
        assert rows.pop(record) == ["", ""]
        for name, (digest, size) in rows.items():
            data = archive.read(name)
            expected = urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={expected}", len(data))


def test_wheel_metadata_names_the_distribution_and_no_dependency(built):
    with zipfile.ZipFile(built) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == ("vqscale", importlib.metadata.version("vqscale"))
    assert metadata.get_all("Requires-Dist") is None


def test_wheel_holds_no_bytecode_and_no_hidden_file(built):
    with zipfile.ZipFile(built) as archive:
        parts = {part for name in archive.namelist() for part in name.split("/")}
    assert not [part for part in parts if part == "__pycache__" or part.startswith(".") or part.endswith(".pyc")]


def test_wheel_installed_elsewhere_is_what_gets_imported(built, tmp_path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(built)], check=True, timeout=60)
    code = (
        "import vqscale, vqkernels.errors, importlib.metadata as m; print(vqscale.__file__, vqkernels.errors.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(target / "vqscale/__init__.py"), str(target / "vqkernels/errors.py")]

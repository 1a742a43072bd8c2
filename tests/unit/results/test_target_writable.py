"""An analysis that cannot be written is refused before it is made."""

from pathlib import Path

import pytest

from vqscale.errors import StorageError
from vqscale.results import locate


def test_target_whose_analysis_cannot_be_written_names_folder_and_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target, out, told in (
        ("http://127.0.0.1:1/runs.csv", None, r"http://127\.0\.0\.1:1/runs\.analysis: .*only read.*--out"),
        ("runs.csv", str(tmp_path / "file"), r"file: cannot be written \(Not a directory\).*--out"),
        ("runs.csv", str(tmp_path / "file" / "below"), r"below: cannot be written \(Not a directory\).*--out"),
    ):
        with pytest.raises(StorageError, match=told):
            locate(target, out).require_writable()
    locate("runs.csv", str(tmp_path / "new" / "folder")).require_writable()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

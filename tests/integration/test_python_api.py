"""The worked example of docs/reference/python.md, as a user would run it: in an empty folder, from Python alone."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "python.md"


def test_worked_example_goes_from_a_study_to_a_figure_and_a_scored_text(tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").split("## A worked example")[1].split("\n## ")[0]
    program = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    program += "\nimport sys\nassert 'ray' not in sys.modules\nassert (table['status'] == 'finished').all()\n"
    (tmp_path / "example.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 trials" in done.stdout
    assert "bits per byte over 32 tokens" in done.stdout
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert (tmp_path / "runs" / "first" / "report.html").exists()

from pathlib import Path

import pytest

from vqscale.laws import LAWS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "scaling-laws-here.md"


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_page_of_laws_agrees_with_the_code(law):
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"**`{law.name}`**: `{law.form}` Limits: {law.limits} Why: {law.why}" in text

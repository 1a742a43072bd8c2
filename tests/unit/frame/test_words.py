"""The field's words: none of the terms that this project once had for itself are left in code, messages or docs."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REPLACED = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"anew": "again",
    r"foretell(s|ing)?|foretold|foresee(s|n|ing)?|foresaw": "predict",
    r"twins?": "parameter-matched baseline",
    r"lanes?": "worker group",
    r"trunks?": "shared WSD prefix",
    r"horizons?": "training tokens, token budget",
    r"afford(s|ed|able)?|allowances?": "budget",
    r"whoever|somebody": "user, caller",
    r"strangers?": "unrecognised",
    r"go(es)? on|gone on|begins? anew": "resume, continue, restart",
    r"(bits|nats|bytes|tokens|seconds|FLOPs|updates|ms|steps) a (byte|token|trial|second|step|layer|update|row)": "per",
}
WORD = re.compile(r"(?<![A-Za-z])(" + "|".join(REPLACED) + r")(?![A-Za-z])", re.IGNORECASE)
SEARCHED = ("*.py", "*.md", "*.yaml", "*.yml", "*.j2", "*.toml", "Makefile")
OLD_NAMES = {  # what earlier versions wrote and this one still reads, with the tests of that
    "CHANGELOG.md": ("mend", "trunk", "trunks", "tokens a step"),
    "docs/reference/fits.md": ("bits a byte", "nats a token"),
    "docs/reference/results-table.md": ("trunk",),
    "platform/vqscale/laws/io/schema.py": ("bits a byte", "nats a token"),
    "platform/vqscale/throughput/plan.py": ("tokens a step",),
    "tests/unit/laws/test_old_fits.py": ("bits a byte", "nats a token"),
    "platform/vqscale/results/result.py": ("trunk",),
    "platform/vqscale/results/table.py": ("trunk",),
    "platform/vqscale/study/shared_prefix.py": ("trunks",),
    "platform/vqscale/throughput/table.py": ("tokens a step",),
    "tests/unit/planning/test_shared_prefix_plan.py": ("trunks",),
    "tests/unit/results/test_table.py": ("trunk",),
    "tests/unit/throughput/test_throughput_old_tables.py": ("tokens a step", "seconds a step"),
}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *SEARCHED], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if not name.startswith("findings/")]


def found(text: str) -> list[str]:
    return [match[0] for match in WORD.finditer(text.replace("_", " "))]


@pytest.mark.parametrize(("text", "count"), [("how to mend it", 1), ("amended", 0), ("lane_count", 1), ("planes", 0)])
def test_search_finds_whole_words_and_parts_of_names(text: str, count: int) -> None:
    assert len(found(text)) == count


def test_no_replaced_word_is_left() -> None:
    left = {}
    for path in tracked():
        name = str(path.relative_to(ROOT))
        words = [word for word in found(path.read_text(encoding="utf-8")) if word not in OLD_NAMES.get(name, ())]
        if words and path != Path(__file__):
            left[name] = sorted(set(words))
    assert left == {}, "tests/unit/frame/test_words.py says what to write instead"


def test_no_file_is_named_by_a_replaced_word() -> None:
    assert [path.name for path in tracked() if found(path.stem.replace("-", " "))] == []

"""YAML read strictly: whatever is no plain, clear value is refused with its line, its key and what to write."""

from pathlib import Path
from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.study.spec import load_study
from vqscale.study.yaml_file import MOST_VALUES, dumped, read_mapping

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    (tmp_path / "study.yaml").write_bytes(text.encode())
    return read_mapping(str(tmp_path / "study.yaml"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("? [a, b]\n: 1\n", "line 1, column 3: a list is used as a key"),
        ("a: {{b: 1}: 2}", "line 1, column 5: a: a mapping is used as a key"),
        ("study: 2026-13-45", "line 1, column 8: study: '2026-13-45' is a date in YAML; write .* in quotes"),
        ("x: 2026-02-01 10:00:00", "'2026-02-01 10:00:00' is a date in YAML"),
        ("x: " + "9" * 5000, r"x: '999.*\(5002 characters\) is beyond the largest number"),
        ("x: 9223372036854775808", "is beyond the largest number, 9223372036854775807"),
        ("x: " + "[" * 100_000, "line 1, column 44: nested deeper than 40 levels"),
        ("\n".join(" " * depth + "a:" for depth in range(500)), "line 41, column 41: nested deeper"),
        (LAUGHS, f"holds more than {MOST_VALUES:,} values with its aliases"),
        ("a: &a [*a]", r"line 1, column 8: \*a is a part of what &a names"),
        ("a: &a {b: {c: *a}}", r"\*a is a part of what &a names"),
        ("a: *b", "found undefined alias 'b'"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is written twice"),
        ("a: {b: 1, b: 2}", "line 1, column 11: a: key 'b' is written twice"),
        ("a:\n\tb: 1", "line 2, column 1: .*spaces, not with tabs"),
        ("a: 1\n---\nb: 2", "line 2, column 1: .*another document"),
        ("", "holds nothing, not a mapping"),
        ("# only a comment\n", "holds nothing, not a mapping"),
        ("- 1", "holds a list, not a mapping"),
        ("hello", "holds the value 'hello', not a mapping"),
        ("a: \0", "special characters are not allowed"),
        ("a: 1:30", "a: '1:30' is of base 8, 2 or 60 in some YAML"),
        ("a: 1:30.5", "'1:30.5' is of base 8, 2 or 60"),
        ("a: 010", "'010' is of base 8, 2 or 60"),
        ("a: 0b11", "'0b11' is of base 8, 2 or 60"),
        ("study: no", "study: 'no' is true or false in some YAML; write true or false, or write 'no' in quotes"),
        ("a: [Yes]", "'Yes' is true or false in some YAML"),
        ("a: &a {x: 1}\nb:\n  <<: *a", "line 3, column 3: b: `<<` is not supported"),
        ("a: !!python/object/apply:os.system ['true']", "the tag !!python/object/apply:os.system is not known"),
        ("a: !own 1", "the tag !own is not known"),
        ("a: !!set {x}", "the tag !!set is not known"),
        ("a: !!binary aGk=", "the tag !!binary is not known"),
        ("a: !!int x", "'x' is not an integer"),
        ("a: !!bool maybe", "'maybe' is not true or false"),
        ("a: .nan", "a: '.nan' is no finite number"),
        ("a: -.inf", "'-.inf' is no finite number"),
        ("a: {b: [1, 1e999]}", "line 1, column 12: a.b: '1e999' is no finite number"),
        ("1: a", "key '1' is no text"),
        ("null: a", "key 'null' is no text"),
        ("on: a", "key 'on' is no text"),
        ("1.5: a", "key '1.5' is no text"),
        ("a: [1, 2", "line 1, column 9: is not valid YAML"),
        ("a: b: c", "line 1, column 5: is not valid YAML"),
        ("x: y\n" * 400_000, "holds 2,000,000 characters; a study file has at most"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_yaml_that_is_no_plain_mapping_is_refused_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=told) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/study.yaml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3e6", 3e6),
        ("-.5e3", -500.0),
        ("1_000", 1000),
        ("0", 0),
        ("0x10", 16),
        ("True", True),
        ("~", None),
        ("'no'", "no"),
        ("'2026-02-01'", "2026-02-01"),
        ("!!str 5", "5"),
        ("1,000", "1,000"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_yaml_words_are_read_as_what_they_look_like(text: str, value: object, tmp_path: Path) -> None:
    found = read(tmp_path, f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_yaml_with_aliases_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeffa: &seeds [0, 1]\nb: *seeds\nc: [*seeds, *seeds]") == {
        "a": [0, 1],
        "b": [0, 1],
        "c": [[0, 1], [0, 1]],
    }


def test_yaml_that_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfea\x00:\x00")
    for path, told in (
        (tmp_path / "study.yaml", "is not UTF-8"),
        (tmp_path, "directory"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(StudyError, match=f"{path}: .*{told}"):
            read_mapping(str(path))


def test_yaml_of_twenty_thousand_keys_is_refused_in_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("".join(f"key{number}: {number}\n" for number in range(20_000)))
    with pytest.raises(StudyError, match="is not a known key") as caught:
        load_study(str(tmp_path / "study.yaml"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert "more" in lines[-1]


@pytest.mark.parametrize(
    "text", ["1e3", "no", "2026-02-01", "1:30", "010", "", " x ", "a: b", "[/b] [nats]", "é\n\tü", "~", "<<", "=", "#"]
)
def test_yaml_written_is_read_as_the_same_values(text: str, tmp_path: Path) -> None:
    shared = [1, 2.5, 1e300, None, True, text]
    values = {"question": text, "lists": [shared, shared], "nested": {"key": shared}}
    assert read(tmp_path, dumped(values)) == values

"""Numbers as people write them: read exactly, or left out with the reason; never guessed at."""

import math

import pytest

from vqscale.results.foreign.cells import decimal_mark, parse_number, parse_numbers

NUMBERS = {
    "20157316": 20157316,
    " 20157316 ": 20157316,
    "20,157,316": 20157316,
    "20.157.316": 20157316,
    "20_157_316": 20157316,
    "20 157 316": 20157316,
    "20\u00a0157\u202f316": 20157316,
    "20'157'316": 20157316,
    "20\u2019157\u2019316": 20157316,
    "1_000": 1000,
    "20.2M": 20.2e6,
    "20.2m": 20.2e6,
    "20.2 M": 20.2e6,
    "20,2M": 20.2e6,
    "20.2B": 20.2e9,
    "7b": 7e9,
    "1.5T": 1.5e12,
    "400k": 4e5,
    "20.2 million": 20.2e6,
    "300B tokens": 300e9,
    "20.2 M params": 20.2e6,
    "20157316 parameters": 20157316,
    "1.3e22": 1.3e22,
    "1.3E+22": 1.3e22,
    "1,3e22": 1.3e22,
    "1.3x10^22": 1.3e22,
    "1.3\u00d710^22": 1.3e22,
    "1.3*10**22": 1.3e22,
    "10^18": 1e18,
    "8.64e19 FLOPs": 8.64e19,
    "1 EFLOP": 1e18,
    "2 ZFLOPs": 2e21,
    "3 PF-days": 3 * 8.64e19,
    "3 petaflop/s-days": 3 * 8.64e19,
    "1,234.5": 1234.5,
    "1.234,5": 1234.5,
    "3,69": 3.69,
    ".5": 0.5,
    "+5.": 5,
    "1e-3": 1e-3,
}
NONE = {
    "": "is empty",
    "  ": "is empty",
    "nan": "is nan",
    "NaN": "is NaN",
    "NA": "is NA",
    "N/A": "is N/A",
    "NULL": "is NULL",
    "None": "is None",
    "-": "is -",
    "inf": "is inf",
    "Infinity": "is Infinity",
    "-Infinity": "is -Infinity",
    "1e400": "is 1e400",
    "1.7976931348623157e+308": "is 1.7976931348623157e+308, which MLflow keeps for infinity",
    "0": "is 0, not a positive number",
    "-5": "is -5, not a positive number",
    "\u22125": "is -5, not a positive number",
    "20.2 MB": "is '20.2 MB', a size in bytes, not a count",
    "20 GiB": "is '20 GiB', a size in bytes, not a count",
    "20 %": "is '20 %', a percentage",
    "12 monkeys": "is '12 monkeys', not a number",
    "1e18 FLOP/s": "is '1e18 FLOP/s', not a number",
    "1,23,4": "is '1,23,4', not a number",
    "1..2": "is '1..2', not a number",
    "1_0": "is '1_0', not a number",
    "0x10": "is '0x10', not a number",
    "2026-01-02": "is '2026-01-02', not a number",
    "True": "is 'True', not a number",
    "#DIV/0!": "is '#DIV/0!', not a number",
    "\uff11\uff12": "is '\uff11\uff12', not a number",
}


@pytest.mark.parametrize("text", NUMBERS)
def test_count_as_people_write_it_is_its_number(text):
    value, problem = parse_number(text, counts=True)
    assert problem is None
    assert value == pytest.approx(NUMBERS[text], rel=1e-12)


@pytest.mark.parametrize("text", NONE)
def test_cell_without_a_number_is_absent_and_says_what_it_is(text):
    value, problem = parse_number(text, counts=True)
    assert math.isnan(value)
    assert problem == NONE[text]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (None, "is empty"),
        (math.nan, "is NaN"),
        (math.inf, "is inf"),
        (True, "is True, not a number"),
        ([1], "is [1], not a number"),
        ("9" * 500, f"is {'9' * 40}..."),
        ("x" * 500, f"is '{'x' * 39}..., not a number"),
    ],
)
def test_cell_of_another_type_says_what_it_is(cell, problem):
    value, found = parse_number(cell, counts=True)
    assert math.isnan(value)
    assert found == problem


@pytest.mark.parametrize("text", ["3.25 nats", "3.25 nats/token", "3.25 ± 0.01", "3.25+/-0.01", "3,25 +- 0,01"])
def test_loss_with_its_own_unit_or_an_uncertainty_is_its_value(text):
    assert parse_number(text, counts=False) == (3.25, None)


def test_loss_takes_no_other_unit():
    value, problem = parse_number("3.2M", counts=False)
    assert math.isnan(value)
    assert problem == "is '3.2M', a number with a unit where a plain one is due"


def test_commas_of_a_loss_are_decimal_marks_unless_it_has_points():
    assert parse_numbers(["3,692", "2,701"], counts=False).values.tolist() == [3.692, 2.701]
    assert parse_numbers(["3,692.5", "2.7"], counts=False).values.tolist() == [3692.5, 2.7]


@pytest.mark.parametrize(
    ("cells", "separator", "mark", "certain"),
    [
        (["20157316", "3,69"], ";", ",", True),
        (["1,234", "3,69"], "\t", ",", True),
        (["1,234", "3.69"], ";", ".", True),
        (["1.234", "3,69"], ";", ",", True),
        (["20,157,316"], ";", ".", True),
        (["20.157.316", "1,234"], ",", ",", True),
        (["1,234"], ",", ".", False),
        (["1,234"], ";", ",", False),
        (["20157316", "3"], ";", ",", True),
    ],
)
def test_decimal_mark_follows_from_the_cells_that_can_be_read_in_one_way(cells, separator, mark, certain):
    assert decimal_mark([cells], separator=separator) == (mark, certain)


def test_thousands_are_those_of_the_tables_decimal_mark():
    assert parse_number("1.234", counts=True, mark=",") == (1234, None)
    assert parse_number("1.234", counts=True, mark=".") == (1.234, None)
    assert parse_number("1,234", counts=True, mark=".") == (1234, None)

import pytest

from vqscale.formatting import duration, percent, short_count


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (0, "0"),
        (12, "12"),
        (12.3456, "12.3"),
        (1536, "1.54k"),
        (-2e6, "-2M"),
        (2.5e9, "2.5G"),
        (4.2e12, "4.2T"),
        (1e15, "1.00e+15"),
    ],
)
def test_short_count_has_three_digits_and_a_unit(value, text):
    assert short_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (3.44, "3.4 s"),
        (45.4, "45 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration_is_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_percent_of_a_missing_share_is_nothing():
    assert [percent(0.01234), percent(0.01234, 2), percent(None), percent(float("nan"))] == ["1.2 %", "1.23 %", "", ""]

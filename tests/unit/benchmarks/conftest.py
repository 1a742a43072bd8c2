"""Synthetic results, as those that the tests of the report read."""

import pytest
from synthetic_runs import make_classifier, make_study_results


@pytest.fixture(scope="session")
def make_classifier_run():
    return make_classifier


@pytest.fixture(scope="session")
def study_results():
    return make_study_results()

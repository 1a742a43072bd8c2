import json
import os

import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.data.prepare import prepare
from vqscale.errors import ClusterError, StudyError
from vqscale.results.lease import Lease

STUDY = """
study: tiny
data: {{corpus: {corpus}}}
model: {{arch: transformer_vq, preset: pico, codebook_size: 32, block_length: 32}}
train: {{context: 64, tokens: 2560, batch_tokens: 256, lr: 3e-3, seeds: [0, 1]}}
storage: {storage}
"""


def test_status_of_a_study_that_was_not_run_counts_its_trials_and_makes_nothing(tmp_path):
    (tmp_path / "text.txt").write_text("a line of text\n" * 2000)
    prepare(str(tmp_path / "text.txt"), str(tmp_path / "corpus"), split="contiguous")
    (tmp_path / "study.yaml").write_text(STUDY.format(corpus=tmp_path / "corpus", storage=tmp_path / "runs"))
    answer = CliRunner().invoke(app, ["status", str(tmp_path / "study.yaml"), "--json"], catch_exceptions=False)
    assert json.loads(answer.stdout) == {
        "study": "tiny",
        "folder": str(tmp_path / "runs/tiny"),
        "trials": 2,
        "states": {"pending": 2},
        "owner": None,
        "damaged": [],
    }
    assert not (tmp_path / "runs").exists()
    with Lease(str(tmp_path / "runs/tiny"), on_lost=print):
        shown = CliRunner().invoke(app, ["status", str(tmp_path / "study.yaml")], catch_exceptions=False).stdout
    assert f"(process {os.getpid()}) since" in shown


def test_status_of_a_job_without_an_address_says_that_it_needs_one():
    with pytest.raises(ClusterError, match="--address"):
        CliRunner().invoke(app, ["status", "tiny-0123abcd"], catch_exceptions=False)


def test_status_of_a_folder_of_studies_shows_each(tmp_path):
    (tmp_path / "text.txt").write_text("a line of text\n" * 2000)
    prepare(str(tmp_path / "text.txt"), str(tmp_path / "corpus"), split="contiguous")
    for name in ("a", "b"):
        (tmp_path / "runs" / name / "trials").mkdir(parents=True)
        text = STUDY.format(corpus=tmp_path / "corpus", storage=tmp_path / "runs").replace("tiny", name)
        (tmp_path / "runs" / name / "study.yaml").write_text(text)
    answer = CliRunner().invoke(app, ["status", str(tmp_path / "runs"), "--json"], catch_exceptions=False)
    assert [(one["study"], one["states"]) for one in json.loads(answer.stdout)] == [
        ("a", {"pending": 2}),
        ("b", {"pending": 2}),
    ]
    answer = CliRunner().invoke(app, ["status", str(tmp_path / "runs/b")], catch_exceptions=False)
    assert "b: 2 trials in" in answer.stdout


def test_status_of_a_throughput_study_counts_its_cells(tmp_path):
    (tmp_path / "speed.yaml").write_text(
        "kind: throughput\nstudy: speed\ncell: {arch: transformer, preset: pico, batch: 1}\n"
        f"sweep: [{{context: [32, 64]}}]\nstorage: {tmp_path}\n"
    )
    answer = CliRunner().invoke(app, ["status", str(tmp_path / "speed.yaml"), "--json"], catch_exceptions=False)
    assert json.loads(answer.stdout) == {
        "study": "speed",
        "folder": str(tmp_path / "speed"),
        "cells": 2,
        "states": {"pending": 2},
        "owner": None,
        "damaged": [],
    }


def test_status_of_an_empty_folder_says_what_to_name(tmp_path):
    with pytest.raises(StudyError, match=r"holds no study.yaml. Name a study file"):
        CliRunner().invoke(app, ["status", str(tmp_path)], catch_exceptions=False)

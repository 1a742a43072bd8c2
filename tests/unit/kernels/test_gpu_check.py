"""The command for a machine with a GPU: its rules, counts and tables. `--smoke` as a whole is an integration test."""

import csv
import itertools
import json
import math
from dataclasses import asdict

import pytest
import torch

from vqkernels.gpu_check import document, timing, verify
from vqkernels.gpu_check.__main__ import main
from vqkernels.gpu_check.cases import REAL, SMOKE, Case, draw, forward_backward
from vqkernels.gpu_check.roofline import exact_work, vq_work

JOB = verify.Job("attention", SMOKE[0], "float32")
CPU = torch.device("cpu")


@pytest.mark.parametrize(("error", "passed"), [(2.9e-3, True), (3.1e-3, False), (math.nan, False), (math.inf, False)])
def test_check_gradient_may_err_three_times_as_much_as_pytorch(error, passed):
    exact = torch.ones(1, dtype=torch.float64)
    check = verify._compare(JOB, "d q", exact + error, exact + 1e-3, exact, factor=3.0)
    assert check.passed is passed
    assert check.reference_error == pytest.approx(1e-3)


def test_run_job_that_raises_is_a_failed_check_with_the_reason():
    broken = verify.Job("attention", Case("broken", 3, 2, 8, 8, 16, 4, 20), "float32")
    (check,) = verify._run_job(broken, "cpu")
    assert not check.passed
    assert "multiple" in check.note


def test_jobs_cover_every_further_configuration_of_every_kernel():
    wanted = verify.jobs(REAL, ["bfloat16", "float32"], CPU)
    named = {job.forced for job in wanted if job.forced}
    for name, kernel in verify.kernels().items():
        for bits in (16, 32):
            suited = [one for one in kernel.configs if one.bits == bits and 90 in one.targets]
            firsts = {
                next((one for one in suited if one.width is None or width <= one.width), None)
                for width in (0, 64, 128, 256)
            }
            missing = {verify.Forced(name, one) for one in suited if one not in firsts} - named
            assert not missing, f"{name}: {missing}"


def test_draw_another_seed_gives_other_numbers():
    one, same, other = (draw(SMOKE[1], torch.float32, CPU, seed).q_BHTK for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_forward_backward_carried_state_has_gradients_that_are_not_zero():
    found = forward_backward(draw(SMOKE[1], torch.float64, CPU), SMOKE[1].block_length, "naive")
    assert all(one.norm() > 0 for one in found.values())


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("length", [16, 20, 48, 100])
def test_vq_work_pairs_equal_those_counted_one_by_one(length, backward):
    case = Case("", 1, 1, 8, 40, 16, 12, 0, biases=False)
    block = case.block_length
    window = sum(
        key // block >= query // block - 1 for query, key in itertools.product(range(length), repeat=2) if key <= query
    )
    cached = sum(case.size for query in range(length) if query // block >= 2)
    flops = 2 * (8 + 40) * (window + cached)
    if backward:
        flops += 2 * (3 * 8 + 2 * 40) * window + 2 * (2 * 8 + 2 * 40) * cached
    assert vq_work(case, 1, length, backward=backward).flops == flops


def test_exact_work_of_short_sequences_is_that_of_vq_attention():
    case = Case("", 2, 2, 8, 8, 64, 12, 0, biases=False)
    assert exact_work(case, 3, 50, backward=True).flops == vq_work(case, 3, 50, backward=True).flops


def test_time_alternately_names_what_could_not_be_timed():
    def no_memory():
        raise torch.OutOfMemoryError("no room")

    def broken():
        raise RuntimeError("no such kernel\nand more")

    found = timing.time_alternately(
        {"good": lambda: sum(range(1000)), "large": no_memory, "broken": broken}, CPU, longest=60.0, n_round=2
    )
    assert isinstance(found["good"], timing.Timing)
    assert len(found["good"].rounds) == 2
    assert (found["large"], found["broken"]) == ("out of memory", "RuntimeError: no such kernel")
    assert "more than 0 s" in timing.time_alternately({"slow": lambda: sum(range(9999))}, CPU, 0.0, 1)["slow"]


def test_main_failed_check_measures_nothing_and_returns_one(tmp_path, monkeypatch, capsys):
    failed = verify._check(JOB, "out", 1.0, 0.1, 0.2)
    monkeypatch.setattr(verify, "run", lambda *_: [failed])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["--smoke", "--out", str(tmp_path)]) == 1
    written = json.loads((tmp_path / "gpu_check.json").read_text())
    assert set(written) == {"about", "notes", "checks"}
    assert "0 of 1 checks passed." in (tmp_path / "gpu_check.md").read_text()
    assert "0 of 1" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_main_without_a_gpu_says_so_and_returns_two(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "results")]) == 2
    assert "--smoke" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_write_tables_go_to_csv_and_the_page_shows_the_worst_check(tmp_path):
    checks = [asdict(verify._check(JOB, what, error, 0.1, 0.2)) for what, error in (("out", 0.01), ("d q", 0.19))]
    page = document.write(tmp_path, {"device": "none"}, {"checks": checks}, ["All well."])
    assert "| d q | 0.19 | 0.1 | 0.2 |" in page
    assert "| out |" not in page
    with (tmp_path / "gpu_check_checks.csv").open() as stream:
        assert [row["what"] for row in csv.DictReader(stream)] == ["out", "d q"]


def test_serve_after_a_cuda_error_leaves_jobs_to_another_process(monkeypatch):
    failed = verify._check(JOB, "out", math.inf, 0.0, 0.0, note="CUDA error: an illegal memory access")
    monkeypatch.setattr(verify, "_run_job", lambda *_: [failed])
    monkeypatch.setattr(verify, "_broken", [])
    assert verify._serve(JOB, "cpu") == [failed]
    assert verify._serve(JOB, "cpu") is None

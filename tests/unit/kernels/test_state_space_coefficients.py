"""Coefficients of Mega's EMA and of S4D against their formulas, written down again."""

import math

import numpy as np
import pytest
import torch

from vqkernels import diagonal_scan, ema_coefficients, s4d_coefficients, s4d_initial


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _response(coefficients, length):
    """What the scan makes of an impulse: [T, D]."""
    x = torch.zeros(1, length, len(coefficients[0]), dtype=torch.float64)
    x[:, 0] = 1
    return diagonal_scan(x, *coefficients, method="recurrent")[0][0]


def test_ema_impulse_response_equals_megas_kernel():
    alpha, beta, delta, gamma = _normal(4, 3, 16)
    p = 1 / (1 + np.exp(-delta.numpy()))
    q = 1 - p / (1 + np.exp(-alpha.numpy()))
    kernel = [(gamma.numpy() / 4 * p * beta.numpy() * q**t).sum(1) for t in range(50)]
    found = _response(ema_coefficients(alpha, beta, delta, gamma), 50)
    torch.testing.assert_close(found, torch.from_numpy(np.stack(kernel)), rtol=1e-12, atol=1e-14)


def test_s4d_impulse_response_equals_the_sampled_kernel():
    log_dt, log_real, imag = _normal(3) - 4, _normal(3, 8), 5 * _normal(3, 8, seed=1)
    c = torch.complex(_normal(3, 8, seed=2), _normal(3, 8, seed=3))
    a = -np.exp(log_real.numpy()) + 1j * imag.numpy()
    step = np.exp(log_dt.numpy())[:, None] * a
    kernel = [2 * (c.numpy() * (np.exp(step) - 1) / a * np.exp(step * t)).sum(1).real for t in range(50)]
    found = _response(s4d_coefficients(log_dt, log_real, imag, c), 50)
    torch.testing.assert_close(found, torch.from_numpy(np.stack(kernel)), rtol=1e-9, atol=1e-12)


def test_s4d_constant_input_gives_the_continuous_answer_whatever_the_step():
    """Zero-order hold is exact for an input that is held: y(t) = 2 Re sum C (exp(A t) - 1) / A."""
    log_real, imag, c = (
        _normal(1, 4),
        _normal(1, 4, seed=1),
        torch.complex(_normal(1, 4, seed=2), _normal(1, 4, seed=3)),
    )
    a = torch.complex(-log_real.exp(), imag)
    wanted = 2 * (c * (torch.exp(2 * a) - 1) / a).sum(1).real
    for steps in (1, 10, 1000):
        log_dt = torch.full((1,), math.log(2 / steps), dtype=torch.float64)
        y, _ = diagonal_scan(torch.ones(1, steps, 1, dtype=torch.float64), *s4d_coefficients(log_dt, log_real, imag, c))
        torch.testing.assert_close(y[0, -1], wanted, rtol=1e-10, atol=0)


def test_s4d_tiny_step_in_float32_keeps_its_input():
    log_dt, log_real, imag = torch.full((1,), math.log(1e-6)), torch.zeros(1, 1), torch.ones(1, 1)
    _, into, _ = s4d_coefficients(log_dt, log_real, imag, torch.ones(1, 1, dtype=torch.complex64))
    assert abs(into.item() - 1e-6) < 1e-11  # (exp(dt A) - 1) / A is dt to first order


def test_s4d_initial_poles_are_those_of_the_paper():
    real, lin = s4d_initial("lin", 4)
    torch.testing.assert_close(real.exp(), torch.full((4,), 0.5))
    torch.testing.assert_close(lin, torch.tensor([0.0, 1.0, 2.0, 3.0]) * math.pi)
    _, inv = s4d_initial("inv", 4)  # N = 8 in the paper: N / pi (N / (2n + 1) - 1)
    torch.testing.assert_close(inv, torch.tensor([8 / math.pi * (8 / (2 * n + 1) - 1) for n in range(4)]))
    with pytest.raises(ValueError, match="kind: got 'legs'"):
        s4d_initial("legs", 4)


def test_coefficients_under_autocast_stay_float32():
    parts = [part.float() for part in _normal(4, 3, 5)]
    with torch.autocast("cpu", torch.bfloat16):
        assert {part.dtype for part in ema_coefficients(*parts)} == {torch.float32}
        made = s4d_coefficients(parts[0][:, 0], parts[1], parts[2], torch.complex(parts[2], parts[3]))
    assert {part.dtype for part in made} == {torch.complex64}
    assert not any(torch.isnan(torch.view_as_real(part)).any() for part in made)

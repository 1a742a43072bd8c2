"""Counting the bytes of live tensors."""

import pytest
import torch

from vqscale.throughput.memory import LiveTensors, OutOfMemoryError, free_memory, is_out_of_memory


def test_live_tensors_views_and_in_place_work_count_a_storage_once():
    counter = LiveTensors()
    with counter:
        x = torch.zeros(1000)
        view = x.view(10, 100)[2:]
        view.add_(1.0)
    assert (counter.live, counter.peak) == (4000, 4000)


def test_live_tensors_freed_ones_leave_the_sum_and_stay_in_the_peak():
    counter = LiveTensors()
    with counter:
        x = torch.zeros(1000)
        y = x + 1
        del x
        assert counter.live == 4000
    del y
    assert (counter.live, counter.peak) == (0, 8000)


def test_live_tensors_made_before_do_not_count():
    x = torch.zeros(1000)
    counter = LiveTensors()
    with counter:
        x.add_(1.0)
        y = x.t()
    assert counter.peak == 0
    assert y is not None


def test_live_tensors_backward_pass_counts_kept_activations_and_gradients():
    x = torch.zeros(1000, requires_grad=True)
    counter = LiveTensors()
    with counter:
        (x.exp() * 1.0).sum().backward()
    assert counter.live == 4000  # the gradient
    assert counter.peak >= 8000  # exp's result is kept while the gradient is made


def test_live_tensors_over_the_limit_raises_a_recognised_error():
    with pytest.raises(OutOfMemoryError) as caught, LiveTensors(limit=5000):
        torch.zeros(1000) + torch.zeros(1000)
    assert is_out_of_memory(caught.value)


def test_is_out_of_memory_allocator_refusal_is_one_and_other_errors_are_not():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_room_here_is_positive_and_less_than_a_pebibyte():
    assert 0 < free_memory() < 2**50

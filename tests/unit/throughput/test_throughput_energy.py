"""Energy counters: wrap-around, permission, a driver library that answers with errors."""

import ctypes

import pytest
import torch

from vqscale.throughput.energy import NvmlMeter, RaplMeter, open_meter

CPU = torch.device("cpu")


def package(folder, name, value, size=1_000_000):
    made = folder / name
    made.mkdir()
    (made / "energy_uj").write_text(str(value))
    (made / "max_energy_range_uj").write_text(str(size))
    return made


def test_rapl_sums_packages_and_survives_the_wrap(tmp_path):
    first, second = package(tmp_path, "intel-rapl:0", 900_000), package(tmp_path, "intel-rapl:1", 0)
    meter = RaplMeter([first, second])
    (first / "energy_uj").write_text("100000")  # 200,000 further, over the end at 1,000,000
    (second / "energy_uj").write_text("300000")
    assert meter.joules() == pytest.approx(0.5)
    (second / "energy_uj").write_text("400000")
    assert meter.joules() == pytest.approx(0.6)


def test_open_meter_takes_packages_and_not_their_parts(tmp_path):
    package(tmp_path, "intel-rapl:0", 0)
    core = package(tmp_path, "intel-rapl:0:0", 0)
    meter = open_meter(CPU, rapl=tmp_path)
    assert meter is not None
    (core / "energy_uj").write_text("500000")
    assert meter.joules() == 0.0
    assert "RAPL" in meter.source


def test_open_meter_without_counters_or_permission_measures_nothing(tmp_path):
    assert open_meter(CPU, rapl=tmp_path / "absent") is None
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir(parents=True)  # cannot be read by any user
    assert open_meter(CPU, rapl=tmp_path) is None


class Driver:
    """NVML with one GPU, or one that answers with an error."""

    def __init__(self, code=0):
        self.code, self.millijoules, self.asked = code, 5_000, None

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        self.asked = uuid
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):
        ctypes.cast(value, ctypes.POINTER(ctypes.c_ulonglong)).contents.value = self.millijoules
        return self.code


def test_nvml_counts_joules_of_the_gpu_that_was_named():
    driver = Driver()
    meter = NvmlMeter(driver, "GPU-abc")
    before = meter.joules()
    driver.millijoules += 1_500
    assert meter.joules() - before == pytest.approx(1.5)
    assert driver.asked == b"GPU-abc"


def test_nvml_without_a_counter_is_an_error_at_once():
    with pytest.raises(OSError, match="error 3"):
        NvmlMeter(Driver(code=3), "GPU-abc")

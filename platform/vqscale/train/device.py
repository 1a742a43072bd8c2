"""The name of the device that a worker trains on."""

import torch

from vqscale.provenance import cpu_model


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({cpu_model()})"

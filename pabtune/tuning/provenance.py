"""What decides about numbers beside what was asked for: the device, and the versions of what computes."""

from importlib.metadata import version

import torch


def device_name(device: torch.device) -> str:
    """What a device is: the name of a GPU, else the type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Versions of the packages that decide about the numbers."""
    return {name: version(name) for name in ("pabtune", "torch", "diffusers")}

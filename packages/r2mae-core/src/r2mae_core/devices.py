"""Which device a run uses: what was asked for, or an error; never a silent fallback to the CPU."""

from r2mae_core.errors import UserError


def resolve_device(name: str) -> str:
    """Return the torch device type ("cpu", "cuda", "mps") for what the user wrote.

    Args:
        name: "auto" (the best device there is), "cpu", "cuda" or "gpu", or "mps".

    Raises:
        UserError: the device is unknown or absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cpu":
        return "cpu"
    if name in ("cuda", "gpu"):
        if not torch.cuda.is_available():
            raise UserError(
                f"device {name!r} was asked for, but torch {torch.__version__} sees no CUDA GPU on this machine; "
                "check the driver with nvidia-smi, or say --device cpu"
            )
        return "cuda"
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("device 'mps' was asked for, but torch sees no Apple GPU; say --device cpu")
        return "mps"
    raise UserError(f"unknown device {name!r}; known: auto, cpu, cuda, mps")


def device_name(device: str) -> str:
    """Return the device's name for a record, such as "NVIDIA H100 80GB HBM3" or "cpu (2 threads)"."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"{device} ({torch.get_num_threads()} threads)"

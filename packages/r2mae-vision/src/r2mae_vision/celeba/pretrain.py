"""Pretraining of the U-Net on CelebA (paper, C.4)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from r2mae_core import (
    BatchOrder,
    Curriculum,
    HeldOutLoss,
    MaskDraw,
    MaskedModule,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    UserError,
    device_name,
    fit,
    resolve_device,
    scheme_name,
    stamped,
    unfinished,
    whole_folder,
)
from r2mae_core import precision as precision_of
from r2mae_vision.celeba.data import CelebA, resident
from r2mae_vision.celeba.evaluate import held_out_loss
from r2mae_vision.celeba.model import Output, UNet, check_side, pixel_mask, scale


class UNetPretraining(MaskedModule):
    """The Lightning module of the U-Net: batches are (B, H, W, 3) uint8, the loss is over the hidden pixels."""

    remedies = "train in float32 (--precision 32-true), or lower lr of pretrain_unet in Python"

    def __init__(self, model: UNet, sampler: RatioSampler, *, lr: float = 1e-3, seed: int = 0) -> None:
        super().__init__(sampler, seed=seed)
        self.model, self.lr = model.to(memory_format=torch.channels_last), lr  # pyright: ignore[reportCallIssue]

    @override
    def masked_loss(self, batch: Tensor, draw: MaskDraw) -> Tensor:
        """Return the mean squared error over the hidden pixels."""
        images = scale(batch)
        return self.model.masked_error(images, pixel_mask(images, draw.mean_ratio, draw.generator))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam; fused, so that a step is one kernel launch per group."""
        return torch.optim.Adam(self.model.parameters(), lr=self.lr, fused=True)


def batch_reader(images: Tensor, device: str) -> Callable[[np.ndarray], Tensor]:
    """Return a function from sample indices to a batch on the device, uint8, that never waits for a GPU."""
    images = resident(images, device)
    pin = device == "cuda" and not images.is_cuda

    def fetch(indices: np.ndarray) -> Tensor:
        batch = images[torch.from_numpy(indices).to(images.device, non_blocking=True)]
        return (batch.pin_memory() if pin else batch).to(device, non_blocking=True)

    return fetch


def pretrain_unet(
    store: CelebA,
    sampler: RatioSampler,
    run: RunFolder,
    *,
    base_channels: int = 16,
    output: Output = "sigmoid",
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 1e-3,
    device: str = "auto",
    seed: int = 0,
    precision: str = "auto",
    progress: bool = True,
) -> UNet:
    """Train a U-Net on the training split to reconstruct hidden pixels, and return it in evaluation mode (paper, C.4).

    Resumes from the run folder's last checkpoint if there is one, reads a finished model back, and leaves `model/` and
    `results.json` there: the loss on validation images (test images if there are none) at fixed ratios.

    Args:
        store: the prepared images.
        sampler: the ratio scheme.
        run: where metrics and checkpoints go.
        base_channels: channels of the first block; the paper has 8, 16 and 32.
        output: "sigmoid" or "linear"; not stated in the paper.
        epochs: passes over the training images.
        batch_size: images per step; the last incomplete batch of an epoch is left out.
        lr: Adam's learning rate.
        device: "auto", "cpu", "cuda", "mps".
        seed: for initialisation, masks and data order. The sampler has its own.
        precision: "auto" (bfloat16 on a GPU, float32 on a CPU), or Lightning's name.
        progress: show a progress bar.

    Raises:
        UserError: the scheme needs curriculum weights, which this model does not have; the images' side is not a
            multiple of 16; there are fewer images than a batch; a device is absent; or the run was interrupted.
    """
    if isinstance(sampler, Curriculum):
        raise UserError(f"the U-Net has no curriculum weights; leave out {scheme_name(sampler, 'vision')}")
    check_side(store.side)
    device = resolve_device(device)
    if _file(run).exists():
        # In the same order of memory as after training, or the last bits of an evaluation differ.
        return load_unet(run).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module = UNetPretraining(UNet(base_channels, output=output, seed=seed), sampler, lr=lr, seed=seed)
    order = BatchOrder(store.counts["train"], batch_size, seed)
    loader = ResumableLoader(order, batch_reader(store.images("train"), device))
    fit(
        module,
        loader,
        run,
        max_epochs=epochs,
        device=device,
        precision=precision_of(precision, device),
        progress=progress,
        samples_per_step=batch_size,
    )
    model = module.model.to(device).eval()
    split, name = ("valid", "validation") if store.counts["valid"] else ("test", "test")
    losses = HeldOutLoss("celeba", held_out_loss(model, store.images(split), device=device), store.counts[split], name)
    run.write_results(stamped(losses.records(scheme_name(sampler, "vision"), seed), device_name(device)))
    save_unet(model, run)
    return model


def _file(run: RunFolder) -> Path:
    return run.path / "model" / "model.safetensors"


def save_unet(model: UNet, run: RunFolder) -> None:
    """Write the model of a run; see `UNet.write_pretrained`."""
    with whole_folder(run.path / "model") as folder:
        model.write_pretrained(folder)


def load_unet(run: RunFolder) -> UNet:
    """Read the model that `save_unet` wrote, in evaluation mode.

    Raises:
        UserError: there is none, or the file was not written by `save_unet`.
    """
    if not _file(run).exists():
        raise unfinished(run.path)
    return UNet.read_pretrained(run.path / "model")

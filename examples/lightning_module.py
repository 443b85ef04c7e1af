"""A `MaskedModule` under Lightning: one ratio per step, checkpoints, validation at fixed ratios, and a resumed run."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from r2mae_core import (
    BatchOrder,
    InOrder,
    MaskedModule,
    ResumableLoader,
    RunFolder,
    exact_mask,
    fit,
    read_metrics,
    scheme,
)

rows = torch.randn(1024, 4, generator=torch.Generator().manual_seed(0)) @ torch.randn(4, 24)


class MaskedTable(MaskedModule):
    """Predicts hidden features of a row."""

    def __init__(self) -> None:
        super().__init__(scheme("r2mae", low=0.1, high=0.9), seed=0, validation_ratios=(0.3, 0.9))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(48, 128), nn.GELU(), nn.Linear(128, 24))

    def masked_loss(self, batch, draw):
        hidden = exact_mask(batch.shape, draw.ratio, generator=draw.generator)
        seen = torch.cat([batch.masked_fill(hidden, 0.0), hidden.float()], dim=1)
        return (self.net(seen) - batch)[hidden].square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=2e-3)


def train(out: Path, steps: int) -> MaskedTable:
    """Train to a number of steps, from the folder's last checkpoint if there is one."""
    module = MaskedTable()
    loader = ResumableLoader(BatchOrder(896, 64), lambda indices: rows[indices])
    held_out = InOrder(range(896, 1024), 64, lambda indices: rows[indices])
    fit(
        module, loader, RunFolder(out, {"data": "a simulated table"}), max_steps=steps, device="cpu", progress=False,
        validation_loader=held_out, log_every=10, checkpoint_every=10,
    )  # fmt: skip
    return module


with tempfile.TemporaryDirectory() as folder:
    whole = train(Path(folder) / "whole", 60)
    train(Path(folder) / "parts", 30)  # an interruption
    resumed = train(Path(folder) / "parts", 60)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    for name, points in read_metrics(Path(folder) / "whole" / "metrics.csv").items():
        print(f"{name:28} {points[-1][1]:.4f} at step {points[-1][0]}")

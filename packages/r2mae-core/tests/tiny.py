"""A small masked autoencoder for the tests of the training seam, also run as a script under torchrun."""

import sys
from pathlib import Path

import torch
from torch import nn

from r2mae_core import BatchOrder, MaskedModule, ResumableLoader, RunFolder, Uniform, exact_mask, train


def samples(n=96, width=12):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, 3, generator=generator) @ torch.randn(3, width, generator=generator)


class TinyMAE(MaskedModule):
    def __init__(self, mask_ratio, dropout=0.1, **arguments):
        super().__init__(mask_ratio, **arguments)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Linear(12, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 12)
            )
        self.trace = {}

    def masked_loss(self, batch, draw):
        mask = exact_mask(batch.shape, draw.ratio, generator=draw.generator)
        loss = (((self.net(batch.masked_fill(mask, 0.0)) - batch) ** 2) * mask).sum() / mask.sum()
        if self.training:
            key = (self.global_step, self.trainer.fit_loop.epoch_loop.batch_idx)
            self.trace[key] = (draw.ratio, mask.tolist(), batch.sum().item(), loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        self.data = samples()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i]


def fit(folder, *, batch_size=8, workers=None, module=None, seed=0, **arguments):
    module = module or TinyMAE(Uniform(0.2, 0.8, seed=1), seed=3)
    data, order = samples(), BatchOrder(96, batch_size, seed)
    if workers is None:
        loader = ResumableLoader(order, lambda indices: data[torch.from_numpy(indices)])
    else:
        loader = ResumableLoader(order, dataset=Rows(), num_workers=workers)
    arguments = {"max_steps": 20, "device": "cpu", "progress": False, "log_every": 1, **arguments}
    trainer = train(module, loader, RunFolder(folder, {}), **arguments)
    return module, trainer


if __name__ == "__main__":  # one rank of the two-process test
    out = Path(sys.argv[1])
    module, trainer = fit(
        out, module=TinyMAE(Uniform(0.2, 0.8, seed=1), dropout=0.0, seed=3), devices=2, strategy="ddp", max_steps=6
    )
    torch.save({"weights": module.state_dict(), "trace": module.trace}, out / f"rank{trainer.global_rank}.pt")

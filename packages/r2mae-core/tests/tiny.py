"""A small masked autoencoder for the tests of the training seam, also run as a script under torchrun."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from r2mae_core import BatchOrder, MaskedModule, ResumableLoader, RunFolder, Uniform, exact_mask, train
from r2mae_core.sharding import gathered_state


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
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(12, 12), nn.GELU())])
        self.trace = {}

    def masked_loss(self, batch, draw):
        mask = exact_mask(batch.shape, draw.ratio, generator=draw.generator)
        shown = self.net(batch.masked_fill(mask, 0.0))
        for block in self.blocks:
            shown = shown + block(shown)
        loss = (((shown - batch) ** 2) * mask).sum() / mask.sum()
        if self.training:
            key = (self.global_step, self.trainer.fit_loop.epoch_loop.batch_idx)
            self.trace[key] = (draw.ratio, mask.tolist(), batch.sum().item(), loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def local_size(parameter):
    return parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()


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


def two_ranks(out, strategy, max_steps, *clip):
    """Train in two processes and return what each found."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*launcher, __file__, str(out), strategy, str(max_steps), *map(str, clip)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


if __name__ == "__main__":  # one rank of the two-process tests
    out, strategy, max_steps, clip = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    module, trainer = fit(
        out,
        module=TinyMAE(Uniform(0.2, 0.8, seed=1), dropout=0.0, seed=3),
        devices=2,
        strategy=strategy,
        max_steps=max_steps,
        gradient_clip_val=float(clip[0]) if clip else None,
        checkpoint_every=4,
    )
    found = {"weights": gathered_state(module), "trace": module.trace, "held": sum(map(local_size, module.parameters()))}
    torch.save(found, out / f"rank{trainer.global_rank}.pt")

"""A small masked autoencoder for the tests of the training seam, also run as a script under torchrun."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from r2mae_core import BatchOrder, MaskedModule, ResumableLoader, RunFolder, Uniform, exact_mask, fit, gathered_state


def samples(n=96, width=12):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, 3, generator=generator) @ torch.randn(3, width, generator=generator)


class TinyMAE(MaskedModule):
    takes_ratios = True

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
            ratio = draw.ratio.tolist() if isinstance(draw.ratio, torch.Tensor) else draw.ratio
            self.trace[key] = (ratio, mask.tolist(), batch.sum().item(), loss.item())
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


def train(folder, *, batch_size=8, workers=None, module=None, seed=0, **arguments):
    module = module or TinyMAE(Uniform(0.2, 0.8, seed=1), seed=3)
    data, order = samples(), BatchOrder(96, batch_size, seed)
    if workers is None:
        loader = ResumableLoader(order, lambda indices: data[torch.from_numpy(indices)])
    else:
        loader = ResumableLoader(order, dataset=Rows(), num_workers=workers)
    arguments = {"max_steps": 20, "device": "cpu", "progress": False, "log_every": 1, **arguments}
    trainer = fit(module, loader, RunFolder(folder, {}), **arguments)
    return module, trainer


def two_ranks(out, strategy, max_steps, *, clip=None, launch=None):
    """Train in two processes and return what each found.

    `launch` starts them: from the script's words to processes that run. The default is torchrun on one machine.
    """
    words = [__file__, str(out), f"--strategy={strategy}", f"--max_steps={max_steps}"]
    words += [] if clip is None else [f"--clip={clip}"]
    for process in (launch or torchrun)(words):
        _, errors = process.communicate(timeout=800)  # of a loaded machine
        assert process.returncode == 0, errors[-3000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


def start(*words, **environment):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, *words], env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, **pipes
    )


def torchrun(words):
    return [start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *words, "--devices=2")]


if __name__ == "__main__":  # one rank of the two-process tests
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--strategy")
    parser.add_argument("--max_steps", type=int)
    parser.add_argument("--clip", type=float)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    given = parser.parse_args()
    module, trainer = train(
        given.out,
        module=TinyMAE(Uniform(0.2, 0.8, seed=1), dropout=0.0, seed=3),
        devices=given.devices,
        num_nodes=given.nodes,
        strategy=given.strategy,
        max_steps=given.max_steps,
        gradient_clip_val=given.clip,
        checkpoint_every=4,
    )
    found = {
        "weights": gathered_state(module),
        "trace": module.trace,
        "held": sum(map(local_size, module.parameters())),
    }
    torch.save(found, given.out / f"rank{trainer.global_rank}.pt")
    # A rank that resumed from shards now and then aborts when the interpreter ends ("terminate called without an active
    # exception": a thread of torch's, on gloo), after all is done; torchrun would call that a failure.
    sys.stdout.flush()
    os._exit(0)

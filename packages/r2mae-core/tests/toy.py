"""A whole modality in sixty lines: what `run_pretraining` is given, for its tests; also run under torchrun."""

import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from r2mae_core import (
    HeldOutLoss,
    InOrder,
    MaskedModule,
    Modality,
    PretrainOptions,
    ResumableLoader,
    Share,
    UserError,
    adamw,
    exact_mask,
    run_pretraining,
    without_prefix,
    write_text,
)

RATIOS = (0.2, 0.6)


@dataclass(frozen=True)
class ToyPretrain(PretrainOptions):
    data: Path
    _: KW_ONLY
    steps: int = 12
    batch_size: int = 8
    lr: float = 1e-2
    weight_decay: float = 0.1
    warmup: Share = 0.25


class ToyModule(MaskedModule):
    def __init__(self, net, config, sampler):
        super().__init__(sampler, seed=config.seed, ratio_per=config.ratio_per, validation_ratios=RATIOS)
        self.net, self.config = net, config

    def masked_loss(self, batch, draw):
        mask = exact_mask(batch.shape, draw.ratio, generator=draw.generator)
        return ((self.net(batch.masked_fill(mask, 0.0)) - batch)[mask] ** 2).mean()

    def configure_optimizers(self):
        c = self.config
        return adamw(
            self.net.named_parameters(), lr=c.lr, weight_decay=c.weight_decay, warmup=c.warmup,
            total_steps=self.total_steps(),
        )  # fmt: skip


class Toy(Modality):
    program, name, unit, marker = "r2mae-toy", "vision", "rows", "net.txt"

    def __init__(self, config):
        super().__init__(config)
        if not config.data.exists():
            raise UserError(f"no rows at {config.data}")
        self.rows = torch.from_numpy(np.load(config.data)).float()
        self.n_samples = len(self.rows) - 10

    def facts(self):
        return {"sum": float(self.rows.sum())}

    def net(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return nn.Sequential(nn.Linear(self.rows.shape[1], 16), nn.Dropout(0.2), nn.Linear(16, self.rows.shape[1]))

    def build(self, sampler):
        return ToyModule(self.net(), self.config, sampler)

    def title(self, module):
        return f"a toy on {self.config.data.name}"

    def fetch(self, indices):
        return self.rows[torch.from_numpy(indices)]

    def loader(self, order, device):
        return ResumableLoader(order, self.fetch)

    def held_out(self, micro_batch_size):
        return InOrder(range(self.n_samples, len(self.rows)), micro_batch_size, self.fetch)

    def trained(self, state, run):
        net = self.net()
        net.load_state_dict(without_prefix(state, "net."))
        return net.eval()

    def evaluate(self, model, device):
        rows = self.rows[self.n_samples :]
        with torch.no_grad():
            losses = {ratio: float((model(rows * (1 - ratio)) - rows).square().mean()) for ratio in RATIOS}
        return HeldOutLoss("rows", losses, len(rows))

    def save(self, model, folder):
        write_text(folder / "net.txt", repr([p.tolist() for p in model.parameters()]))


if __name__ == "__main__":
    run_pretraining(
        Toy, ToyPretrain(Path(sys.argv[1]), out=Path(sys.argv[2]), device="cpu", progress=False, devices=2, log_every=1)
    )

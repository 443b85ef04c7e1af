"""One rank of the two-process test, started by torchrun."""

import sys
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp
import scvi
import torch

from r2mae_core import Uniform, rank_and_world_size, run_pretraining
from r2mae_singlecell import R2MAE
from r2mae_singlecell.options import Pretrain
from r2mae_singlecell.pretrain import SingleCells, pretrain

out = Path(sys.argv[1])
torch.set_num_threads(1)
scvi.settings.seed = 0
adata = anndata.AnnData(sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (96, 30)).astype(np.float32)))
R2MAE.setup_anndata(adata)
model = R2MAE(adata, n_hidden=16, n_latent=4, mask_ratio=Uniform(0.2, 0.8))
trace, original = [], model.module.hidden_nll


def watched(tensors, columns):
    trace.append((len(columns) / 30, columns.tolist(), tensors["X"].sum(1).tolist()))
    return original(tensors, columns)


model.module.hidden_nll = watched
model.train(
    max_epochs=2,
    batch_size=16,
    train_size=1.0,
    accelerator="cpu",
    devices=2,
    strategy="ddp",
    enable_progress_bar=False,
)
steps = [(model.mask_ratio.sample(step), columns, cells) for step, (_, columns, cells) in enumerate(trace)]
assert all(abs(share - ratio) <= 0.5 / 30 + 1e-9 for (share, *_), (ratio, *_) in zip(trace, steps, strict=True))
torch.save({"weights": model.module.state_dict(), "trace": steps}, out / f"rank{rank_and_world_size()[0]}.pt")

# The command's own function: 20 cells a step over both, the model and the results written by the first rank alone.
sizes = {"epochs": 2, "batch_size": 20, "n_hidden": 16, "n_latent": 4}
run = pretrain(
    Pretrain(
        data=out / "p.h5ad",
        mask_ratio="r2mae+cl",
        device="cpu",
        devices=2,
        out=out / "run",
        progress=False,
        log_every=1,
        **sizes,
    )
)
assert (run.path / "model" / "model.json").exists()  # on both, after the barrier

# A ratio for each cell: this rank's part of what the sampler draws for the 20 cells of a step.
drawn = []


class Watched(SingleCells):
    def build(self, sampler):
        module = super().build(sampler)
        draw = module.draw

        def watched(batch, batch_idx):
            drawn.append(draw(batch, batch_idx))
            return drawn[-1]

        module.draw = watched
        return module


common = {"data": out / "p.h5ad", "mask_ratio": "mdlm", "device": "cpu", "progress": False}
run_pretraining(Watched, Pretrain(ratio_per="sample", devices=2, out=out / "cells", **common, **sizes))
torch.save([draw.ratio for draw in drawn], out / f"ratios{rank_and_world_size()[0]}.pt")

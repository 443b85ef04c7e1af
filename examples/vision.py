"""A masked autoencoder on the bundled digits (1,797 real scans): pretrain with two schemes, then use the features."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from r2mae_vision import load_mae, open_source
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.pretrain import pretrain

SMALL = {
    "model_args": {"depth": 2, "embed_dim": 48, "num_heads": 3}, "image_size": 8, "patch_size": 2, "decoder_dim": 32,
    "decoder_depth": 1, "decoder_heads": 2, "epochs": 15, "batch_size": 64, "lr": 4e-3, "augment": "none",
}  # fmt: skip


def features(model, split):
    """Return the mean visible token of every image, with nothing hidden, and the labels."""
    store = open_source("digits", split)
    images, labels = store.fetch(np.arange(len(store)))[:2]
    with torch.no_grad():
        return model.encoder.forward_features(model.normalise(images)).mean(1).numpy(), labels.numpy()


def accuracy(model):
    """Return the test accuracy of a logistic regression on frozen features."""
    (x, y), (x_test, y_test) = features(model, "train"), features(model, "val")
    return LogisticRegression(max_iter=2000).fit(x, y).score(x_test, y_test)


with tempfile.TemporaryDirectory() as folder:
    found = {}
    for name in ("r2mae", "fixed"):
        config = Pretrain(
            "digits", model="vit_tiny_patch16_224", mask_ratio=name, out=Path(folder) / name, device="cpu",
            progress=False, **SMALL,
        )  # fmt: skip
        run = pretrain(config)
        found[name] = accuracy(load_mae(run.path).eval())
        losses = "  ".join(f"{r.metric} {r.value:.3f}" for r in run.results())
        print(f"{name:6} accuracy of a linear probe {found[name]:.3f}   {losses}")
assert min(found.values()) > 0.3  # chance is 0.1

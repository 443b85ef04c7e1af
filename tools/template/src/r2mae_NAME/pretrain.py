"""Pretraining: the loss, and what core needs to know of this modality."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2mae_core import (
    HeldOutLoss,
    InOrder,
    MaskDraw,
    MaskedModule,
    Modality,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    StepOrder,
    UserError,
    adamw,
    counted_ratio,
    exact_mask,
    inverse_ratio_loss,
    register_modality,
    run_pretraining,
    without_prefix,
)
from r2mae_NAME.data import read_rows
from r2mae_NAME.evaluate import VALIDATION_RATIOS, held_out_loss
from r2mae_NAME.model import RowAutoencoder, save_model
from r2mae_NAME.options import Pretrain

# The ratios that `--mask_ratio fixed`, `r2mae`, `dynamic`, … have in this modality.
register_modality("NAME", ratio=0.5, low=0.1, high=0.9)


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain a masked autoencoder and return the run folder: `model/`, `results.json`, metrics and checkpoints.

    Raises:
        UserError: what `run_pretraining` and `read_rows` refuse.
    """
    return run_pretraining(RowModality, config)


def pretrain_command(config: Pretrain) -> None:
    """Run `r2mae-NAME pretrain`."""
    run_pretraining(RowModality, config, talk=True)


class RowModality(Modality[Pretrain, RowAutoencoder]):
    """Rows of numbers, standardised by the training rows."""

    program, name, unit = "r2mae-NAME", "NAME", "rows"

    def __init__(self, config: Pretrain) -> None:
        super().__init__(config)
        rows = read_rows(config.data)
        n_held_out = max(round(config.held_out * len(rows)), 1)
        self.n_samples = len(rows) - n_held_out
        if self.n_samples < 2:
            raise UserError(f"--held_out {config.held_out:g} leaves {self.n_samples} of {len(rows)} rows to train on")
        train = rows[: self.n_samples]
        self.rows = (rows - train.mean(0)) / np.maximum(train.std(0), 1e-6)
        self.digest = hashlib.sha256(rows.tobytes()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return the digest of the data: a run does not resume on other rows."""
        return {"data_digest": self.digest}

    def build(self, sampler: RatioSampler) -> MaskedModule:
        """Return the untrained module."""
        return MaskedRows(self.network(), sampler, self.config)

    def network(self) -> RowAutoencoder:
        """Return the untrained network."""
        return RowAutoencoder(self.rows.shape[1], self.config.n_hidden, self.config.seed)

    def title(self, module: Any) -> str:
        """Return what is trained on what."""
        return f"a masked autoencoder on {self.n_samples:,} rows of {self.rows.shape[1]} features"

    def loader(self, order: StepOrder, device: str) -> ResumableLoader:
        """Return the training rows, in an order that resumes bit for bit."""
        return ResumableLoader(order, self.fetch)

    def held_out(self, micro_batch_size: int) -> InOrder:
        """Return the held-out rows, for the validations during training."""
        return InOrder(range(self.n_samples, len(self.rows)), micro_batch_size, self.fetch)

    def fetch(self, indices: np.ndarray) -> Tensor:
        """Return rows by their indices, (B, features)."""
        return torch.from_numpy(self.rows[indices])

    def trained(self, state: dict[str, Tensor], run: RunFolder) -> RowAutoencoder:
        """Return the trained network."""
        network = self.network()
        network.load_state_dict(without_prefix(state, "network."))
        return network

    def evaluate(self, model: RowAutoencoder, device: str) -> HeldOutLoss:
        """Return the loss on the held-out rows."""
        held_out = self.rows[self.n_samples :]
        return HeldOutLoss(self.config.data.stem, held_out_loss(model, held_out, device=device), len(held_out))

    def save(self, model: RowAutoencoder, folder: Path) -> None:
        """Write the model."""
        save_model(model, folder)


class MaskedRows(MaskedModule):
    """Hides features of every row, and predicts them.

    Args:
        network: the autoencoder.
        sampler: the scheme.
        config: learning rate, weight decay, warm-up, seed.
    """

    takes_ratios = takes_loss_weight = True  # masked_loss heeds a ratio for each row, and the weight of the draw

    def __init__(self, network: RowAutoencoder, sampler: RatioSampler, config: Pretrain) -> None:
        super().__init__(
            sampler, seed=config.seed, ratio_per=config.ratio_per, loss_weight=config.loss_weight,
            validation_ratios=VALIDATION_RATIOS,
        )  # fmt: skip
        self.network, self.config = network, config
        if config.compile:
            self.network.compile()

    def masked_loss(self, batch: Tensor, draw: MaskDraw) -> Tensor:
        """Return the mean squared error of the hidden features of rows (B, features)."""
        mask = exact_mask(batch.shape, draw.ratio, generator=draw.generator)
        errors = (self.network(batch, mask) - batch).square() * mask
        if draw.loss_weight == "inverse_ratio":
            n_rows, n_features = batch.shape
            ratio = counted_ratio(draw.ratio, n_features)
            return inverse_ratio_loss(errors, ratio, n_rows=n_rows, n_positions=n_features)
        return errors.sum() / mask.sum()

    def configure_optimizers(self) -> Any:
        """Return AdamW with a warm-up and a cosine."""
        c = self.config
        return adamw(
            self.network.named_parameters(), lr=c.lr, weight_decay=c.weight_decay, warmup=c.warmup,
            total_steps=self.total_steps(),
        )  # fmt: skip

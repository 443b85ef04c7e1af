"""What a pretrained U-Net has learned: reconstruction of uncorrupted images, masked error, attribute probe (C.4)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r2mae_core import Record, UserError, derived_seed, device_name, permutation, stamped
from r2mae_vision.celeba.data import CelebA, resident
from r2mae_vision.celeba.model import UNet, nested_pixel_masks, scale

EVALUATION_RATIOS = (0.1, 0.5, 0.9)
HIDDEN = 512  # units of the probe's shared layer (C.4)
BATCH = 512


def _batches(images: Tensor, device: str) -> Iterator[Tensor]:
    """Yield images (B, 3, H, W) in [0, 1] on the device."""
    for part in images.split(BATCH):
        yield scale(part.to(device, non_blocking=True))


@torch.no_grad()
def reconstruction_error(model: UNet, images: Tensor, device: str = "cpu") -> float:
    """Return the mean squared error of the output when the input is not corrupted (figure 2B).

    Args:
        model: on `device`; batch norm is used in evaluation mode.
        images: (N, H, W, 3) uint8.
        device: where to compute.
    """
    model.eval()
    total = sum(float(F.mse_loss(model(part), part)) * len(part) for part in _batches(images, device))
    return total / len(images)


@torch.no_grad()
def held_out_loss(
    model: UNet, images: Tensor, ratios: Sequence[float] = EVALUATION_RATIOS, device: str = "cpu"
) -> dict[float, float]:
    """Return ratio → mean squared error over hidden pixels, with the same masks for every model and seed.

    Args:
        model: on `device`; batch norm is used in evaluation mode.
        images: (N, H, W, 3) uint8.
        ratios: fractions of the pixels hidden.
        device: where to compute.
    """
    model.eval()
    totals = dict.fromkeys(ratios, 0.0)
    generator = torch.Generator(device).manual_seed(0)
    for part in _batches(images, device):
        for ratio, mask in zip(ratios, nested_pixel_masks(part, ratios, generator), strict=True):
            totals[ratio] += float(model.masked_error(part, mask)) * len(part)
    return {ratio: total / len(images) for ratio, total in totals.items()}


@torch.no_grad()
def pooled_features(model: UNet, images: Tensor, device: str = "cpu") -> Tensor:
    """Return the bottleneck's output for uncorrupted images, averaged over positions: (N, 16 · base_channels)."""
    model.eval()
    return torch.cat([model.representation(part).mean((2, 3)).float() for part in _batches(images, device)])


class AttributeHead(nn.Module):
    """A shared layer with ReLU and dropout, and one linear head per attribute (C.4).

    The heads do not share parameters, so they are one linear layer.
    """

    def __init__(self, width: int, n_attributes: int = 40, dropout: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must lie in [0, 1), got {dropout}")
        self.dropout = dropout
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(seed, "probe"))
            self.shared = nn.Linear(width, HIDDEN)
            self.heads = nn.Linear(HIDDEN, n_attributes)

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return logits (B, n_attributes); with a generator, dropout is drawn from it."""
        hidden = F.relu(self.shared(features))
        if generator is not None:
            keep = torch.rand(hidden.shape, generator=generator, device=hidden.device) >= self.dropout
            hidden = hidden * keep / (1 - self.dropout)
        return self.heads(hidden)


def attribute_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    seed: int = 0,
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 1e-3,
    dropout: float = 0.5,
) -> Tensor:
    """Train the classifier of C.4 on frozen, pooled features and return its answers on the test features.

    The network is frozen and batch norm in evaluation mode, so the features of an image never change and are computed
    once. Binary cross-entropy, mean over images and attributes; Adam.

    Args:
        train_features: (N, d).
        train_labels: (N, A) of 0 and 1.
        test_features: (N', d).
        seed: for initialisation, dropout and data order.
        epochs: passes over the training set.
        batch_size: images per step; not stated in the paper (here: that of pretraining).
        lr: Adam's learning rate.
        dropout: rate; not stated in the paper (here: 0.5).

    Returns:
        (N', A) bool.
    """
    device = train_features.device
    labels = train_labels.to(device).float()
    head = AttributeHead(train_features.shape[1], labels.shape[1], dropout, seed).to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=lr, fused=True)
    generator = torch.Generator(device).manual_seed(derived_seed(seed, "probe dropout"))
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(len(labels), derived_seed(seed, "probe order"), epoch).copy()).to(device)
        for rows in order.split(batch_size):
            loss = F.binary_cross_entropy_with_logits(head(train_features[rows], generator), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return head(test_features) > 0


@dataclass(frozen=True)
class AttributeScores:
    """Per attribute, (A,) float64 each."""

    accuracy: Tensor
    balanced: Tensor
    """Mean of the accuracies among the images with and those without; NaN if all test images are alike."""
    majority: Tensor
    """Accuracy of the answer that most training images have."""


def attribute_scores(answers: Tensor, labels: Tensor, train_labels: Tensor) -> AttributeScores:
    """Evaluate answers (N', A) bool against labels (N', A) of 0 and 1, beside the majority of train_labels (N, A)."""
    truth, answers = labels.bool().cpu(), answers.cpu()
    right = answers == truth
    with_it = (right & truth).sum(0).double() / truth.sum(0)
    without = (right & ~truth).sum(0).double() / (~truth).sum(0)
    most = train_labels.double().cpu().mean(0) > 0.5
    return AttributeScores(right.double().mean(0), (with_it + without) / 2, (truth == most).double().mean(0))


def evaluate_unet(
    model: UNet,
    store: CelebA,
    scheme: str,
    *,
    task: str = "celeba",
    seed: int = 0,
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 1e-3,
    dropout: float = 0.5,
    ratios: Sequence[float] = EVALUATION_RATIOS,
    pretrain_seconds: float | None = None,
) -> list[Record]:
    """Evaluate a pretrained U-Net on the test split; the probe is trained on the training split.

    Args:
        model: evaluated on the device where it is.
        store: the prepared images.
        scheme: the model's name in tables.
        task: name of the task in the records; that of an attribute is `<task>/<attribute>`.
        seed: of the probe.
        epochs: epochs of the probe.
        batch_size: images per step of the probe.
        lr: learning rate of the probe.
        dropout: of the probe.
        ratios: where the loss is measured.
        pretrain_seconds: time of the pretraining, to be added to that of the evaluation in the records.

    Returns:
        reconstruction_mse, one loss@ratio per ratio, and the means over the attributes of attribute_accuracy,
        balanced_accuracy and majority_accuracy; and the last three for each attribute.
    """
    start = time.perf_counter()
    device = model.head.weight.device.type
    test = resident(store.images("test"), device)
    values = {"reconstruction_mse": reconstruction_error(model, test, device)}
    values |= {f"loss@{ratio:g}": loss for ratio, loss in held_out_loss(model, test, ratios, device).items()}
    train_features = pooled_features(model, store.images("train"), device)
    train_labels, labels = store.attributes("train"), store.attributes("test")
    answers = attribute_probe(
        train_features,
        train_labels,
        pooled_features(model, test, device),
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        dropout=dropout,
    )
    scores = attribute_scores(answers, labels, train_labels)
    columns = {
        "attribute_accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced,
        "majority_accuracy": scores.majority,
    }
    values |= {metric: float(column.nanmean()) for metric, column in columns.items()}
    seconds = None if pretrain_seconds is None else pretrain_seconds + time.perf_counter() - start
    records = [Record(task, metric, value, scheme, seed, len(labels)) for metric, value in values.items()] + [
        Record(f"{task}/{attribute}", metric, float(column[i]), scheme, seed, len(labels))
        for i, attribute in enumerate(store.names)
        for metric, column in columns.items()
        if not column[i].isnan()
    ]
    return stamped(records, device_name(device), seconds)

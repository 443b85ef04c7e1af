"""What a pretrained stack has learned: linear probe, effective rank, error at fixed ratios (paper, C.3)."""

import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    check_output,
    device_name,
    nested_masks,
    open_run,
    permutation,
    resolve_device,
    resolved,
    run_identity,
    stamped,
)
from r2mae_vision.mae.model_options import Probe
from r2mae_vision.mae.weights import identity_of_weights
from r2mae_vision.mnist.data import ImageData, load_digits_or_mnist
from r2mae_vision.mnist.model import MLPAutoencoder, StackedLinear, load_model

EVALUATION_RATIOS = (0.1, 0.5, 0.9)
FEATURE_BYTES = 2**30
"""Of the training images' features at once: a wide stack of many models would need more memory than its training."""


@torch.no_grad()
def embed(model: MLPAutoencoder, data: ImageData, images: Tensor, batch_size: int = 2048) -> Tensor:
    """Return the second layer's output for uncorrupted images, (M, N, hidden2), batch norm in evaluation mode."""
    model.eval()
    n_models = len(model.seeds)
    parts = [model.encoder(data.scale(part).expand(n_models, -1, -1)) for part in images.split(batch_size)]
    return torch.cat(parts, dim=1)


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    seeds: Sequence[int],
    epochs: int = 15,
    batch_size: int = 128,
    lr: float = 3e-3,
) -> list[float]:
    """Return each model's test accuracy with a linear classifier on its frozen features (paper, C.3).

    Args:
        train_features: (M, N, d).
        train_labels: (N,) int64.
        test_features: (M, N', d).
        test_labels: (N',).
        seeds: for initialisation and data order, one per model.
        epochs: passes over the training set.
        batch_size: samples per step.
        lr: Adam's learning rate.
    """
    n_models, n_samples, width = train_features.shape
    device = train_features.device
    head = StackedLinear(n_models, width, int(train_labels.max()) + 1)
    for i, seed in enumerate(seeds):
        head.reset(i, torch.Generator().manual_seed(seed))
    head.to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=lr, fused=True)
    rows = torch.arange(n_models, device=device)[:, None]
    for epoch in range(epochs):
        orders = torch.from_numpy(np.stack([permutation(n_samples, seed, epoch) for seed in seeds])).to(device)
        for batch in orders.split(batch_size, dim=1):
            logits = head(train_features[rows, batch])
            # Summed over models: each has its own mean over the batch.
            loss = F.cross_entropy(logits.flatten(0, 1), train_labels[batch].flatten()) * n_models
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        predicted = head(test_features).argmax(-1)
    return (predicted == test_labels).double().mean(1).tolist()


def effective_rank(features: Tensor) -> list[float]:
    """Return exp(H) of each model's features, H the entropy of the sum-normalised singular values (paper, figure 2D).

    The paper's text says "the entropy"; the definition that it cites is its exponential, a number of dimensions
    between 1 and the width.

    Args:
        features: (M, N, d). Not centred.
    """
    gram = torch.einsum("mnd,mne->mde", features.double(), features.double())
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = singular / singular.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp().tolist()


@torch.no_grad()
def masked_error(
    model: MLPAutoencoder, data: ImageData, images: Tensor, ratios: Sequence[float] = EVALUATION_RATIOS
) -> Tensor:
    """Return the mean squared error on hidden pixels at fixed ratios, (M, len(ratios)).

    The masks are the same for every model, scheme and seed.
    """
    model.eval()
    total, count = torch.zeros(len(model.seeds), len(ratios), dtype=torch.float64), 0
    generator = torch.Generator(images.device).manual_seed(0)
    for part in images.split(1024):
        masks = nested_masks(part.shape, ratios, generator=generator)
        scaled = data.scale(part)
        for j, mask in enumerate(masks):
            total[:, j] += model.masked_errors(
                scaled[None], mask.expand(len(model.seeds), -1, -1)
            ).double().cpu() * len(part)
        count += len(part)
    return total / count


def loss_records(
    model: MLPAutoencoder,
    data: ImageData,
    schemes: Sequence[str],
    task: str | None = None,
    ratios: Sequence[float] = EVALUATION_RATIOS,
) -> list[Record]:
    """Return every model's loss@ratio on the test images; the arguments are those of `evaluate_members`."""
    errors, n = masked_error(model, data, data.test_images, ratios).tolist(), len(data.test_images)
    return [
        Record(task or data.name, f"loss@{ratio:g}", value, scheme, seed, n)
        for scheme, seed, row in zip(schemes, model.seeds, errors, strict=True)
        for ratio, value in zip(ratios, row, strict=True)
    ]


def evaluate_members(
    model: MLPAutoencoder,
    data: ImageData,
    schemes: Sequence[str],
    *,
    task: str | None = None,
    epochs: int = 15,
    batch_size: int = 128,
    lr: float = 3e-3,
    ratios: Sequence[float] = EVALUATION_RATIOS,
    pretrain_seconds: float | None = None,
    device: str = "cpu",
) -> list[Record]:
    """Evaluate every model of a stack.

    Args:
        model: the stack, on `device`.
        data: the image set; moved to `device`.
        schemes: the models' names in tables.
        task: name of the task in the records; default the data set's.
        epochs: epochs of the linear probe.
        batch_size: samples per step of the probe.
        lr: learning rate of the probe.
        ratios: where the loss is measured.
        pretrain_seconds: time of the whole stack's pretraining; the records hold each model's equal share.
        device: where to compute.

    Returns:
        per model: probe_accuracy and effective_rank, and then one loss@ratio per ratio, all on the test images.
    """
    start = time.perf_counter()
    data = data.to(device)
    accuracy, rank = list[float](), list[float]()
    at_once = max(1, FEATURE_BYTES // (4 * len(data.train_images) * model.hidden[1]))
    for first in range(0, len(model.seeds), at_once):
        some = model.members(range(len(model.seeds))[first : first + at_once])
        train_features, test_features = embed(some, data, data.train_images), embed(some, data, data.test_images)
        accuracy += linear_probe(
            train_features,
            data.train_labels,
            test_features,
            data.test_labels,
            seeds=some.seeds,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
        )
        rank += effective_rank(test_features)
    columns = {"probe_accuracy": accuracy, "effective_rank": rank}
    name, n = task or data.name, len(data.test_images)
    records = [
        Record(name, metric, values[i], scheme, seed, n)
        for i, (scheme, seed) in enumerate(zip(schemes, model.seeds, strict=True))
        for metric, values in columns.items()
    ]
    if ratios:
        records += loss_records(model, data, schemes, task, ratios)
    seconds = None
    if pretrain_seconds is not None:
        seconds = (pretrain_seconds + time.perf_counter() - start) / len(schemes)
    return stamped(records, device_name(device), seconds)


def probe_mlp(config: Probe) -> RunFolder:
    """Evaluate an MLP run by the protocol of C.3 and return the run folder with the records."""
    pretrained, device = RunFolder.open(config.model), resolve_device(config.device)
    source = config.data or pretrained.config.get("data")
    if not isinstance(source, str):
        raise UserError(f"{config.model} does not state what it was trained on; name the images with --data")
    if config.out is not None:
        check_output(config.out, [config.model, source])
    data = load_digits_or_mnist(source)
    model = load_model(pretrained, data.n_pixels).to(device)
    sources = {**data.identity, "model": f"MLP, {identity_of_weights(model.state_dict())}"}
    settings = {**resolved(config), "data": source}
    scheme, seed = run_identity(pretrained.path, "vision")
    with open_run(
        "r2mae-vision", "probe", config.out, settings, sources=sources, free=("model", "data"),
        models={pretrained.path: (scheme, seed)},
    ) as run:  # fmt: skip
        if not run.results():
            run.write_results(evaluate_members(model, data, [scheme], ratios=(), device=device))
        return run

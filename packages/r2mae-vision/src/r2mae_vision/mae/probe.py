"""Evaluation of frozen features: a linear probe (logistic regression, or MAE's recipe with LARS) and kNN."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    check_output,
    cosine,
    derived_seed,
    device_name,
    open_run,
    permutation,
    precision,
    resolve_device,
    resolved,
    say,
    show_table,
    stamped,
)
from r2mae_vision.data.datasets import n_workers
from r2mae_vision.data.multilabel import is_multi
from r2mae_vision.data.pairs import identity, open_pair
from r2mae_vision.data.sources import AS_IT_IS, HowToOpen, Source, how_to_open
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.mae.encoders import EncoderSpec, build_encoder, is_mlp, open_encoder
from r2mae_vision.mae.inference import crop_pct, eval_batches
from r2mae_vision.mae.model_options import Probe
from r2mae_vision.mae.several import check_judged, class_scores, means
from r2mae_vision.mae.shape import pixel_scale


@torch.no_grad()
def extract_features(
    model: Any,
    spec: EncoderSpec,
    source: Source,
    *,
    pool: str = "token",
    crop_pct: float = 0.875,
    device: str = "cpu",
    bf16: bool = False,
    batch_size: int = 256,
    workers: int = 0,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return features (N, D) float32 and labels (N,) or (N, classes) of unchanged images, on the device.

    Args:
        model: timm's model without a head.
        spec: states size and normalisation.
        source: images with labels.
        pool: "token": the class token after the last norm (or the mean if there is none); "avg": the patches' mean.
        crop_pct: share of the picture's side that the model sees.
        device: where to compute.
        bf16: compute in bfloat16.
        batch_size: images at once.
        workers: processes that decode.
        progress: show a progress bar.
    """
    from tqdm import tqdm

    batches = eval_batches(source, spec, crop_pct, batch_size, workers)
    mean, std = pixel_scale(spec.shape, device)
    model.to(device).eval()
    parts, labels, unreadable = [], [], 0
    total = -(-len(source) // batch_size)
    for images, these, bad in tqdm(batches, desc="features", total=total, unit="batch", disable=not progress):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            tokens = model.forward_features((images.to(device).float() - mean) / std)
        n_prefix = model.num_prefix_tokens
        by_token = pool == "token" and n_prefix > 0
        # The mean has a norm of its own if the model was fine-tuned on it; else this is the identity.
        parts.append((tokens[:, 0] if by_token else model.fc_norm(tokens[:, n_prefix:].mean(1))).float())
        labels.append(these)
        unreadable += bad
    if unreadable:
        say(f"{source.name}: {unreadable:,} images could not be decoded; their neighbours were used instead")
    features = torch.cat(parts)
    if not torch.isfinite(features).all():
        raise UserError(f"features of {spec.scheme} on {source.name} are NaN or infinite; use --precision 32-true")
    return features, torch.cat(labels).to(device)


# Model and data are compared by content: they may have been moved.
FREE = ("model", "data", "labels", "validation")
MOST_FOR_LOGISTIC = 100_000


def logistic_accuracy(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], c: float = 1.0) -> dict[str, float]:
    """Return top-1 and top-5 accuracy of scikit-learn's logistic regression on standardised frozen features.

    Args:
        train: features (N, D) and labels (N,).
        val: features (M, D) and labels (M,).
        c: inverse strength of the squared penalty, scikit-learn's default.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels, held_out = (part.cpu().numpy() for part in (*train, val[0]))
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(features), labels)
    scores = np.full((len(held_out), int(max(labels.max(), val[1].max())) + 1), -np.inf)
    scores[:, model.classes_] = np.log(model.predict_proba(scaler.transform(held_out)).clip(1e-300))
    return top_k(torch.from_numpy(scores), val[1].cpu())


def logistic_scores(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], c: float = 1.0) -> Tensor:
    """Return scores (M, classes) of one logistic regression for each class against the rest, as `logistic_accuracy`.

    A class that all of the training images have, or none, gets the same score for every image.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels, held_out = (part.cpu().numpy() for part in (*train, val[0]))
    scaler = StandardScaler().fit(features)
    features, held_out = scaler.transform(features), scaler.transform(held_out)
    scores = np.zeros((len(held_out), labels.shape[1]))
    for k, truth in enumerate(labels.T):
        if 0 < truth.sum() < len(truth):
            scores[:, k] = LogisticRegression(C=c, max_iter=2000).fit(features, truth).decision_function(held_out)
    return torch.from_numpy(scores)


def lars_scores(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    *,
    seed: int,
    epochs: int = 90,
    batch_size: int = 16384,
    base_lr: float = 0.1,
    warmup: float = 1 / 9,
) -> Tensor:
    """Return scores (M, classes) of a linear classifier on frozen features.

    MAE's recipe (batch norm without parameters, LARS, no weight decay, cosine) on features that were computed once, of
    unchanged images. MAE's own probe augments by random crops, for which the encoder would have to run in every epoch.

    Args:
        train: features (N, D) and labels (N,), or (N, classes) of 0 and 1 for a binary cross-entropy.
        val: features (M, D) and labels.
        seed: for initialisation and data order.
        epochs: passes over the features.
        batch_size: rows of a step; at most a tenth of them.
        base_lr: learning rate per 256 rows of a step.
        warmup: share of the steps in which the learning rate rises; MAE's 10 of 90 epochs.
    """
    from timm.optim.lars import Lars

    features, labels = train
    n, width = features.shape
    several = is_multi(labels)
    n_classes = labels.shape[1] if several else int(max(labels.max(), val[1].max())) + 1
    batch_size = max(min(batch_size, n // 10), 1)
    # Batch norm without parameters on frozen features converges to their own mean and deviation.
    mean, std = features.mean(0), features.var(0, unbiased=False).add(1e-6).sqrt()
    features, held_out = (features - mean) / std, (val[0] - mean) / std
    head = nn.Linear(width, n_classes)
    nn.init.trunc_normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(derived_seed(seed, "probe")))
    nn.init.zeros_(head.bias)
    head.to(features.device)
    lr, n_batches = base_lr * batch_size / 256, n // batch_size
    settings: Any = {"lr": lr, "momentum": 0.9, "weight_decay": 0.0}
    # The layer-wise rate is for the matrix alone, as in MAE; without `always_adapt` timm's LARS is plain SGD here.
    groups: Any = [{"params": [head.weight], "always_adapt": True}, {"params": [head.bias], "always_adapt": False}]
    optimizer = Lars(groups, **settings)
    total = epochs * n_batches
    for step in range(total):
        epoch, turn = divmod(step, n_batches)
        rows = torch.from_numpy(permutation(n, seed, epoch)[turn * batch_size : (turn + 1) * batch_size].copy())
        rows = rows.to(features.device)
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine(step, total, warmup)
        answers, wanted = head(features[rows]), labels[rows]
        if several:
            loss = F.binary_cross_entropy_with_logits(answers, wanted.float())
        else:
            loss = F.cross_entropy(answers, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        scores = head(held_out)
    if not torch.isfinite(scores).all():
        raise UserError("the linear probe diverged: its answers are NaN or infinite; lower --base_lr")
    return scores


def top_k(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Return top-1 and top-5 accuracy of scores (N, classes)."""
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    return {"top1": best[:, 0].sum().item() / len(best), "top5": best.any(1).sum().item() / len(best)}


@torch.no_grad()
def knn_accuracy(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], k: int = 20, temperature: float = 0.07, block: int = 1024
) -> dict[str, float]:
    """Return the accuracy of a vote of the k nearest training images by cosine similarity.

    Each neighbour's vote weighs exp(similarity / temperature) (Wu et al., 2018).

    Raises:
        UserError: there are fewer training images than neighbours.
    """
    if k > len(train[0]):
        raise too_many_neighbours(k, len(train[0]))
    n_classes = int(max(train[1].max(), val[1].max())) + 1
    keys = F.normalize(train[0], dim=1)
    votes = []
    for part in val[0].split(block):
        similarity, index = (F.normalize(part, dim=1) @ keys.T).topk(k, dim=1)
        vote = part.new_zeros(len(part), n_classes)
        weight = ((similarity - similarity[:, :1]) / temperature).exp()  # of the nearest 1, so that nothing overflows
        votes.append(vote.scatter_add_(1, train[1][index], weight))
    return top_k(torch.cat(votes), val[1])


def too_many_neighbours(k: int, n: int) -> UserError:
    """Return the message for a k that is larger than the number of training images."""
    return UserError(f"kNN with k = {k} needs at least as many training images, there are {n}; lower --k")


def probe(config: Probe) -> RunFolder:
    """Evaluate frozen features and return the run folder with the records.

    Raises:
        UserError: model, data or device do not fit.
    """
    if is_mlp(Path(config.model)):
        from r2mae_vision.mnist.evaluate import probe_mlp

        return probe_mlp(config)
    device = resolve_device(config.device)
    spec = open_encoder(config.model, config.timm_model, config.image_size, config.mean, config.std)
    data, how = (spec.data, spec.how) if config.data is None else (config.data, how_to_open(config))
    if config.data is None and how_to_open(config) != AS_IT_IS:
        raise UserError("options of columns are of --data; name it, too")
    if data is None:
        raise UserError(f"{config.model} does not state what it was trained on; name the images with --data")
    if config.out is not None:
        check_output(config.out, [config.model.removeprefix("scratch:"), data, config.labels, config.validation])
    train_source, val_source = open_labelled(data, config, how)
    seeds = config.seeds if config.seeds is not None else (spec.seed,)
    settings = {**resolved(config), "data": data, "seeds": seeds}
    sources = identity(train_source, val_source) | spec.identity
    models = {Path(config.model): (spec.scheme, spec.seed)}
    with open_run("r2mae-vision", "probe", config.out, settings, sources=sources, free=FREE, models=models) as run:
        if run.results():
            return run
        start = time.perf_counter()
        averaged, values = spec.averaged and config.pool == "avg", list[tuple[str, float, int]]()
        for seed in seeds if spec.weights is None else seeds[:1]:  # each seed newly initialises another network
            model = build_encoder(spec, seed, num_classes=0, global_pool="avg" if averaged else "")
            train, val = (_features(model, spec, source, config, device) for source in (train_source, val_source))
            heads = seeds if spec.weights is not None and by_lars(config, len(train[0])) else (seed,)
            values += _values(train, val, val_source.classes, config, heads)
        if is_multi(train_source.labels):
            say("Images may have several classes: a linear probe of each class, and no nearest neighbours")
        records = [
            Record(train_source.name, metric, value, spec.scheme, seed, len(val_source), "validation")
            for metric, value, seed in values
        ]
        run.write_results(stamped(records, device_name(device), time.perf_counter() - start))
        return run


def _features(model: Any, spec: EncoderSpec, source: Source, config: Probe, device: str) -> tuple[Tensor, Tensor]:
    return extract_features(
        model,
        spec,
        source,
        pool=config.pool,
        crop_pct=crop_pct(config.crop_pct, spec),
        device=device,
        bf16=precision(config.precision, device) == "bf16-mixed",
        workers=n_workers(config.workers) if len(source) > 2048 else 0,
        progress=config.progress,
    )


def _values(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    classes: Sequence[str],
    config: Probe,
    seeds: Sequence[int],
) -> list[tuple[str, float, int]]:
    """Return (metric, value, seed) of a linear probe for each seed, and of nearest neighbours for the first."""
    values: list[tuple[str, float, int]] = []
    for seed in seeds:
        if by_lars(config, len(train[0])):
            settings = {"epochs": config.epochs, "batch_size": config.batch_size, "base_lr": config.base_lr}
            linear = judged(lars_scores(train, val, seed=seed, **settings), val[1], classes)
        elif is_multi(train[1]):
            linear = judged(logistic_scores(train, val), val[1], classes)
        else:
            linear = logistic_accuracy(train, val)
        values += [(f"linear_{metric}", value, seed) for metric, value in linear.items()]
    for k in () if is_multi(train[1]) else config.k:
        values.append((f"knn{k}_top1", knn_accuracy(train, val, k, config.temperature)["top1"], seeds[0]))
    return values


def judged(scores: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return top-1 and top-5 accuracy of scores (M, classes), or means over classes of images that have several."""
    if not is_multi(labels):
        return top_k(scores, labels)
    return means(class_scores(scores.cpu().numpy(), labels.cpu().numpy(), classes))


def open_labelled(data: str, config: Probe, how: HowToOpen) -> tuple[Source, Source]:
    """Open training and validation images that can be probed.

    Raises:
        UserError: they have fewer than two classes, or are fewer than the neighbours asked for; or as `open_pair`.
    """
    train_source, val_source = open_pair(data, config.validation, how)
    if is_multi(train_source.labels):
        check_judged(val_source.labels, f"{data}: validation images")
        return train_source, val_source
    if len(train_source.classes) < 2:
        raise UserError(f"{data} has a single class, {', '.join(train_source.classes)}; a probe needs two")
    if (largest := max(config.k, default=0)) > len(train_source):
        raise too_many_neighbours(largest, len(train_source))
    return train_source, val_source


def by_lars(config: Probe, n_images: int) -> bool:
    """Return whether the linear probe is MAE's."""
    return config.linear == "lars" or (config.linear == "auto" and n_images > MOST_FOR_LOGISTIC)


def probe_command(config: Probe) -> None:
    """`r2mae-vision probe`."""
    run = probe(config)
    show_table(run, run.results(), RANK_BY, f"{config.model}: frozen features")
    say(f"Done: {run.path} (results.json, table.md)")

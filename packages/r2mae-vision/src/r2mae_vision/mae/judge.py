"""Judgement during pretraining: what frozen features are worth every so often, on images that are not trained on.

Nearest neighbours and a linear probe where there are labels (by accuracy, or mean average precision where an image may
have several classes), and the effective rank of the features (RankMe) always.
The number of images is chosen so that judging takes at most a twentieth of the operations of training.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from r2mae_core import RunFolder, UserError, new_figure, save_figure, say
from r2mae_vision.data.datasets import sample_labelled
from r2mae_vision.data.multilabel import is_multi
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import Source
from r2mae_vision.mae.flops import features_flops, train_flops
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.probe import knn_accuracy, top_k
from r2mae_vision.mae.several import class_scores

SHARE = 0.04
"""Operations of judging for each one of training; the other hundredth is for what is not counted."""
MOST_TRAIN, MOST_HELD_OUT, FEWEST = 4000, 1000, 48
K = 20
RIDGE = 1e-2
"""Penalty of the linear probe, for each image and standardised feature."""


class Judged(NamedTuple):
    """Images of the model's size, and their labels (B,), or (B, classes) of 0 and 1; -1: none."""

    images: Tensor
    labels: Tensor


def images_to_judge(
    model: MaskedAutoencoder, train: Source, held_out: Source, *, apart: bool, every: int, batch_size: int, ratio: float
) -> tuple[Judged, Judged]:
    """Return the images whose features are neighbours and training rows, and those that are judged.

    Args:
        model: states size, channels and cost.
        train: the training images.
        held_out: the validation images.
        apart: whether these are other images; else those of the training part are divided.
        every: steps between two judgements.
        batch_size: images of a step.
        ratio: mean mask ratio, which decides what a step costs.

    Raises:
        UserError: so few steps leave no time to judge images.
    """
    one, cost = features_flops(model), every * batch_size * train_flops(model, ratio)
    affordable = int(SHARE * cost / one)
    there = min(len(train), MOST_TRAIN) + (min(len(held_out), MOST_HELD_OUT) if apart else 0)
    if affordable < min(FEWEST, there):
        fewest = -(-min(FEWEST, there) * one // int(SHARE * batch_size * train_flops(model, ratio)))
        raise UserError(
            f"--judge_every {every}: a twentieth of the time judges only {affordable} images; judge every {fewest} "
            "steps or more"
        )
    n_held_out = min(MOST_HELD_OUT, len(held_out), max(affordable // 4, 1))
    n_train = max(min(MOST_TRAIN, len(train), affordable - n_held_out), 1)
    if apart:
        found = _sampled(train, n_train, model), _sampled(held_out, n_held_out, model)
        found = found[0], found[1]._replace(labels=numbered_as(train.classes, held_out.classes, found[1].labels))
    else:
        images, labels = _sampled(train, n_train, model)
        judged = torch.arange(len(images)) % 4 == 3
        found = Judged(images[~judged], labels[~judged]), Judged(images[judged], labels[judged])
    if len(found[1].images) < 2:
        raise UserError(f"--judge_every: {held_out.name} has too few images to judge features by; leave it out")
    if why := _why_rank_alone(*found):
        say_once(f"{held_out.name}: features are judged by their effective rank alone: {why}")
    return found


def _sampled(source: Source, n: int, model: MaskedAutoencoder) -> Judged:
    return Judged(*sample_labelled(source, n, model.shape.size, model.shape.in_chans))


def numbered_as(classes: Sequence[str], own: Sequence[str], labels: Tensor) -> Tensor:
    """Return labels as another part of the data numbers its classes, which may have others.

    Args:
        classes: of the other part.
        own: of the labels.
        labels: (B,), or (B, classes). A class that the other part does not have becomes no label.
    """
    if tuple(classes) == tuple(own):
        return labels
    place = {name: i for i, name in enumerate(classes)}
    if not is_multi(labels):
        return torch.tensor([*(place.get(name, -1) for name in own), -1])[labels.long()]
    found = torch.zeros(len(labels), len(classes), dtype=labels.dtype)
    for name, column in zip(own, labels.T, strict=True):
        if name in place:
            found[:, place[name]] = column
    found[(labels < 0).any(1)] = -1
    return found


def _why_rank_alone(train: Judged, held_out: Judged) -> str:
    """Return why labels say nothing; empty: they do."""
    for labels, which in ((train.labels, "training"), (held_out.labels, "held-out")):
        if not _labelled(labels).any():
            return f"the {which} images have no labels"
    if is_multi(train.labels) != is_multi(held_out.labels):
        return "an image has several classes in one part of the data and one in the other"
    if not is_multi(train.labels):
        return "" if len(train.labels[_labelled(train.labels)].unique()) > 1 else "there is a single class"
    return "" if _told(held_out.labels).any() else "no class has held-out images with it and without it"


def _labelled(labels: Tensor) -> Tensor:
    return (labels >= 0).all(1) if is_multi(labels) else labels >= 0


def _told(labels: Tensor) -> Tensor:
    """Return which classes some labelled images have and others do not, (classes,) bool."""
    known = labels[_labelled(labels)] == 1
    return known.any(0) & ~known.all(0)


@torch.no_grad()
def mean_features(model: MaskedAutoencoder, images: Tensor, batch_size: int = 128) -> Tensor:
    """Return the mean over the patches' features of whole images, (B, D) float32."""
    parts = []
    for part in images.split(batch_size):
        part = model.normalise(part.to(model.mean.device))
        every = torch.arange(model.n_patches, device=part.device).expand(len(part), -1)
        tokens = model.encode(model.patchify(part), every)[:, model.encoder.num_prefix_tokens :]
        parts.append(tokens.float().mean(1))
    return torch.cat(parts)


def rankme(features: Tensor) -> float:
    """Return exp of the entropy of the features' singular values, divided by their sum (Garrido et al., 2023)."""
    values = torch.linalg.svdvals(features.cpu().double())
    p = values / values.sum().clamp_min(1e-300) + 1e-7
    return float(torch.special.entr(p).sum().exp())


def ridge_accuracy(train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> float:
    """Return the top-1 accuracy of `ridge_scores` of labels (N,)."""
    n_classes = int(max(train[1].max(), held_out[1].max())) + 1
    wanted = torch.nn.functional.one_hot(train[1].cpu(), n_classes)
    return top_k(ridge_scores(train[0], wanted, held_out[0]), held_out[1].cpu())["top1"]


def ridge_scores(features: Tensor, wanted: Tensor, others: Tensor) -> Tensor:
    """Return scores (M, classes) by a ridge regression of (N, classes) of 0 and 1 on standardised features.

    In closed form and so without a seed; a cheap relative of the logistic regression of `probe`.
    """
    features, others, wanted = (part.cpu().double() for part in (features, others, wanted))
    mean, std = features.mean(0), features.std(0, correction=0) + 1e-6
    features, others = (features - mean) / std, (others - mean) / std
    bias = wanted.mean(0)
    gram = features.T @ features + RIDGE * len(features) * torch.eye(features.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, features.T @ (wanted - bias))
    return others @ weight + bias


def neighbour_scores(features: Tensor, wanted: Tensor, others: Tensor, k: int, temperature: float = 0.07) -> Tensor:
    """Return scores (M, classes): the k nearest images' (N, classes) of 0 and 1, weighted as in `knn_accuracy`."""
    similarity, index = (F.normalize(others, dim=1) @ F.normalize(features, dim=1).T).topk(k, dim=1)
    weight = torch.softmax(similarity / temperature, dim=1)
    return torch.einsum("mk,mkc->mc", weight, wanted[index].to(weight.dtype))


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes that can be told of the average precision of scores (M, classes)."""
    found = class_scores(scores.numpy(), labels.numpy(), [str(i) for i in range(labels.shape[1])])
    return float(np.mean([one.average_precision for one in found if one.average_precision is not None]))


def judge(model: MaskedAutoencoder, train: Judged, held_out: Judged) -> dict[str, float]:
    """Return metric → value: RankMe of the held-out images and, of those with labels, kNN and linear probe.

    These are top-1 accuracy, or mean average precision where an image may have several classes.
    """
    features, judged = mean_features(model, train.images), mean_features(model, held_out.images)
    values = {"rankme": rankme(judged)}
    if _why_rank_alone(train, held_out):
        return values
    known, asked = _labelled(train.labels), _labelled(held_out.labels)
    rows, questions = (features[known], train.labels[known]), (judged[asked], held_out.labels[asked])
    rows, questions = ((f.float().cpu(), labels.cpu()) for f, labels in (rows, questions))
    k = min(K, len(rows[0]))
    if is_multi(train.labels):
        by_neighbours, linear = neighbour_scores(*rows, questions[0], k), ridge_scores(*rows, questions[0])
        values[f"knn{k}_map"] = mean_average_precision(by_neighbours, questions[1])
        values["linear_map"] = mean_average_precision(linear, questions[1])
        return values
    values[f"knn{k}_top1"] = knn_accuracy(rows, questions, k)["top1"]
    values["linear_top1"] = ridge_accuracy(rows, questions)
    return values


class Judge(pl.Callback):
    """Judges every so many steps: into the log (`judge/knn20_top1` …), a picture, and the decision to stop.

    Args:
        train: images with labels, if they have any, as neighbours and training rows.
        held_out: images that are judged.
        every: optimizer steps.
        patience: stop after so many judgements without a better one (by kNN, or RankMe without labels); None: never.
        run: where the picture goes.
    """

    def __init__(self, train: Judged, held_out: Judged, every: int, patience: int | None, run: RunFolder) -> None:
        self.train, self.held_out = train, held_out
        self.every, self.patience, self.run = every, patience, run
        self.steps, self.history, self.stopped = list[int](), dict[str, list[float]](), False
        self.seconds, self.start, self.first_step = 0.0, 0.0, 0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "history": self.history, "stopped": self.stopped}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.history = list(state_dict["steps"]), dict(state_dict["history"])
        self.stopped = state_dict["stopped"]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()
        trainer.should_stop = trainer.should_stop or self.stopped

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step % self.every or step == 0 or step in self.steps[-1:]:
            return
        start, model = time.perf_counter(), pl_module.model
        values: dict[str, float] = {}
        if trainer.is_global_zero:
            model.eval()
            with trainer.precision_plugin.forward_context():
                values = judge(model, self.train, self.held_out)
            model.train()
            for logger in trainer.loggers:
                logger.log_metrics(
                    {f"judge/{name}": value for name, value in values.items()}, step - 1
                )  # as its losses
        values = trainer.strategy.broadcast(values)
        self.steps.append(step)
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
        self.stopped = self.patience is not None and self.since_best() >= self.patience
        trainer.should_stop = trainer.should_stop or self.stopped
        self.seconds += time.perf_counter() - start

    @property
    def metric(self) -> str:
        """By which a judgement is better than another."""
        return next((name for name in self.history if name.startswith("knn")), "rankme")

    def since_best(self) -> int:
        """Return how many judgements followed the best one; of equal ones the first."""
        values = self.history[self.metric]
        return len(values) - 1 - int(np.argmax(values))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.steps or not trainer.is_global_zero:
            return
        save_figure(plot_judgements(self.steps, self.history), self.run.path / "figures" / "judge.png")
        if self.stopped:
            say(
                f"Stopped at step {self.steps[-1]}: {self.metric} has not risen for {self.since_best()} judgements; "
                "the last weights are kept"
            )
        shown = ", ".join(f"{name} {values[-1]:.4g}" for name, values in sorted(self.history.items()))
        part = self.seconds / max(time.perf_counter() - self.start, 1e-9)
        say(
            f"Judged on {len(self.held_out.images):,} images by {len(self.train.images):,} others, "
            f"{part:.1%} of the time: {shown} (figures/judge.png)"
        )


def plot_judgements(steps: Sequence[int], history: dict[str, list[float]]) -> Any:
    """Draw a panel per metric over the steps."""
    figure = new_figure(3.2 * len(history) + 0.6, 2.8)
    grid = figure.subplots(1, len(history), squeeze=False)[0]
    for axes, (name, values) in zip(grid, sorted(history.items()), strict=True):
        axes.plot(steps, values, marker="o", markersize=3)
        axes.set(title=name, xlabel="step", ylabel=_unit(name))
    return figure


def _unit(name: str) -> str:
    if name == "rankme":
        return "effective dimensions"
    return "mean average precision" if name.endswith("_map") else "accuracy"

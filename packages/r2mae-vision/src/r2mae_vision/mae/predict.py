"""`r2mae-vision predict`: what a fine-tuned model says of images, as a table with the names of its classes."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from r2mae_core import (
    UserError,
    atomic_path,
    check_output,
    default_run_path,
    end_with_caller,
    one_writer,
    precision,
    read_json,
    resolve_device,
    say,
)
from r2mae_vision.data.datasets import check_channels, check_range, from_workers, n_workers, read_image
from r2mae_vision.data.decoding import Reading, UnreadableImageError, suffixes
from r2mae_vision.data.image_files import ImageFiles, PathReader
from r2mae_vision.data.multilabel import JOIN, unlabelled, written
from r2mae_vision.data.sources import AS_IT_IS, HowToOpen, NoValidationError, Source, how_to_open, open_source
from r2mae_vision.data.store import ImageStore
from r2mae_vision.mae import timm_folder
from r2mae_vision.mae.encoders import EncoderSpec, model_arguments, open_encoder
from r2mae_vision.mae.inference import eval_transform
from r2mae_vision.mae.model_options import Predict
from r2mae_vision.mae.shape import pixel_scale


class TunedModel(NamedTuple):
    """A fine-tuned model and what its images and answers are."""

    network: Any
    spec: EncoderSpec
    classes: tuple[str, ...]
    crop_pct: float
    several: bool = False
    """Whether an image may have several classes: each then has a probability of its own."""
    reading: Reading = Reading()
    """Deep pixels are read as those of the training images were, not by what the images at hand suggest."""


def open_tuned(name: str) -> TunedModel:
    """Return a fine-tuned model with its head: a run of `finetune`, a seed's folder in it, or timm's folder of one.

    Raises:
        UserError: there is none, it has no head, or its files are damaged.
    """
    import timm

    place = Path(name)
    folder = timm_folder.find(place) if place.is_dir() else None
    if folder is None:
        raise UserError(f"{name} is no fine-tuned model; name a run folder of r2mae-vision finetune")
    stated = read_json(folder / timm_folder.CONFIG)
    n, pool = stated.get("num_classes"), stated.get("global_pool")
    if not isinstance(n, int) or n < 1:
        raise UserError(f"{folder} has no head that answers; fine-tune it first: r2mae-vision finetune {name} DATA")
    classes = tuple(stated.get("label_names") or map(str, range(n)))
    if len(classes) != n:
        raise UserError(f"{folder / timm_folder.CONFIG} is damaged: {len(classes)} names of {n} classes")
    spec = open_encoder(str(folder))
    network: Any = timm.create_model(spec.shape.model, **model_arguments(spec), num_classes=n, global_pool=pool)
    state, own = timm_folder.read_state(folder), network.state_dict()
    differs = sorted(set(state) ^ set(own)) or [key for key in own if own[key].shape != state[key].shape]
    if differs:
        raise UserError(f"{folder}: the weights do not fit its {timm_folder.CONFIG}: {differs[0]}")
    network.load_state_dict(state)
    reading = Reading.of_deep_range(stated.get("deep_range"))
    crop_pct = float(stated.get("pretrained_cfg", {}).get("crop_pct") or 1.0)
    return TunedModel(network.eval(), spec, classes, crop_pct, stated.get("multi_label") is True, reading)


class _Images(Dataset):
    """Transformed images; None where one cannot be read."""

    def __init__(self, source: Source, model: TunedModel) -> None:
        size = model.spec.shape.size
        self.source, self.in_chans, self.least = source, model.spec.shape.in_chans, 2 * max(size)
        self.transform = eval_transform(size, model.crop_pct, source)

    def __getitem__(self, index: int) -> tuple[np.ndarray | None, str]:
        try:
            return np.asarray(self.transform(read_image(self.source, index, self.in_chans, self.least)[0])), ""
        except UnreadableImageError as error:
            return None, str(error)


class Answer(NamedTuple):
    """What the model says of an image."""

    shares: Tensor | None
    """(classes,) probabilities; None: it cannot be read."""
    why: str = ""

    def named(self, model: TunedModel) -> str:
        """Return the likeliest class; where an image may have several, all that are likelier than not."""
        if self.shares is None:
            return ""
        if model.several:
            return written((self.shares >= 0.5).numpy().astype(int), model.classes)
        return model.classes[int(self.shares.argmax())]


@torch.no_grad()
def answers(
    model: TunedModel, source: Source, *, device: str, bf16: bool, batch_size: int, workers: int
) -> Iterator[Answer]:
    """Yield an answer for each image, in order."""
    mean, std = pixel_scale(model.spec.shape, device)
    network = model.network.to(device)
    loader = DataLoader(
        _Images(source, model),
        batch_size,
        sampler=range(len(source)),
        num_workers=workers if len(source) > 512 else 0,
        collate_fn=list,
        worker_init_fn=end_with_caller,
    )
    for rows in from_workers(loader):
        read = [image for image, _ in rows if image is not None]
        shares = iter(())
        if read:
            images = torch.from_numpy(np.stack(read)).to(device).float()
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                logits = network((images - mean) / std)
            shares = iter((logits.float().sigmoid() if model.several else logits.float().softmax(1)).cpu())
        yield from (Answer(None, why) if image is None else Answer(next(shares)) for image, why in rows)


def predict(config: Predict) -> Path:
    """Write the predictions for a set of images as a table, and return the table's path.

    An image that cannot be read has a row without a prediction, and is counted.

    Raises:
        UserError: the model has no head, there are no images, none can be read, or the output exists.
    """
    out = config.out or default_run_path("r2mae-vision", "predict").with_suffix(".csv")
    check_output(out, [config.model, config.data.removeprefix("wds/"), config.labels], overwrite=config.overwrite)
    device = resolve_device(config.device)
    model = open_tuned(config.model)
    source, part = images_of(config.data, config.split, replace(how_to_open(config), reading=model.reading))
    _check_deep_range(source, model)
    check_range(source, model.spec.shape.pixel_range)
    if isinstance(source, ImageStore) and source.span is not None:
        check_channels(source, model.spec.shape.in_chans)
    say(f"Predicting {len(source):,} images of {config.data}{f', its part {part}' if part else ''}")
    bf16 = precision(config.precision, device) == "bf16-mixed"
    workers = n_workers(config.workers)
    found = list(answers(model, source, device=device, bf16=bf16, batch_size=config.batch_size, workers=workers))
    known = [written(label, source.classes) for label in source.labels]
    unread = [i for i, answer in enumerate(found) if answer.shares is None]
    if unread:
        why = "; ".join(f"{source.file_name(i)}: {found[i].why}" for i in unread[:3])
        say(f"{len(unread):,} images cannot be read and have no prediction ({why})")
    if len(unread) == len(found):
        raise UserError(f"none of {len(found):,} images of {config.data} can be read")
    with one_writer(out, folder=False), atomic_path(out) as temporary:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table(source, known, found, model))
        temporary.write_text(text.getvalue(), encoding="utf-8")
    _say_accuracy(source, known, found, model)
    return out


def table(source: Source, known: Sequence[str], found: Sequence[Answer], model: TunedModel) -> Iterator[list[str]]:
    """Yield the header and a row per image: its name, its label if there are any, the prediction, all probabilities."""
    label, classes = ["label"] if any(known) else [], model.classes
    yield ["image", *label, "prediction", *(f"p({name})" for name in classes)]
    for i, answer in enumerate(found):
        told = [known[i]] if label else []
        if answer.shares is None:
            yield [source.file_name(i), *told, "", *("" for _ in classes)]
        else:
            shares = [f"{share:.6g}" for share in answer.shares.tolist()]
            yield [source.file_name(i), *told, answer.named(model), *shares]


def images_of(data: str, split: str | None, how: HowToOpen = AS_IT_IS) -> tuple[Source, str]:
    """Return the images to predict and the name of their part: one file, what `data` names, or its validation part.

    Raises:
        UserError: there are none.
    """
    place = Path(data)
    if place.is_file() and place.suffix.lower() in suffixes():
        return ImageFiles(
            place.stem, PathReader(place.parent, [place.name]), (), np.array([-1]), place, how.reading
        ), ""
    if split == "train":
        return open_source(data, "train", how), "train"
    try:
        return open_source(data, "val", how), "val"
    except NoValidationError:
        if split == "val":
            raise
        return open_source(data, "train", how), ""


def _check_deep_range(source: Source, model: TunedModel) -> None:
    """Refuse a store in which other deep pixels are black and white than in the model's training images.

    Raises:
        UserError: they are.
    """
    there, asked = source.deep_range, model.reading.deep_range
    if there and asked and there[:2] != asked[:2]:
        wanted = f"[{asked[0]:g},{asked[1]:g}]"
        raise UserError(
            f"black and white were {wanted} in the images that the model was trained on, and "
            f"[{there[0]:g},{there[1]:g}] in {source.name}; prepare it with --range '{wanted}'"
        )


def _say_accuracy(source: Source, known: Sequence[str], found: Sequence[Answer], model: TunedModel) -> None:
    """Say how many labelled images are predicted right, by the names of the classes."""
    sets = [
        {source.classes[k] for k in np.flatnonzero(label == 1)} if np.ndim(label) else {name} - {""}
        for name, label in zip(known, source.labels, strict=True)
    ]
    strange = [bool(some - set(model.classes)) for some in sets]
    if any(strange):
        shown = sorted({name for some in sets for name in some - set(model.classes)})
        say(f"{sum(strange):,} images have labels that the model does not know: {', '.join(shown[:5])}")
    judged = ~unlabelled(source.labels) & ~np.array(strange)
    pairs = [
        (some, {part for part in answer.named(model).split(JOIN) if part} if model.several else {answer.named(model)})
        for some, answer, one in zip(sets, found, judged, strict=True)
        if one and answer.shares is not None
    ]
    if pairs:
        right, how = sum(a == b for a, b in pairs), ", all their classes and no other," if model.several else ""
        say(f"{right:,} of {len(pairs):,} images with a known label are predicted right{how}".removesuffix(","))


def predict_command(config: Predict) -> None:
    """`r2mae-vision predict`."""
    say(f"Done: {predict(config)}")

"""Fine-tuning for classification by MAE's public recipe: timm's augmentation, mixup, layer decay (paper, 4.1, C.5)."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from r2mae_core import (
    Record,
    RunFolder,
    StepOrder,
    UserError,
    check_output,
    check_tracker,
    device_name,
    file_digest,
    first_rank,
    fit,
    micro_batch_size,
    open_run,
    permutation,
    precision,
    read_records,
    resolve_device,
    resolved,
    save_tensors,
    say,
    show_table,
    stamped,
    write_records,
    write_text,
)
from r2mae_vision.data.augment import RandomCrop, proportions
from r2mae_vision.data.datasets import (
    check_channels,
    check_range,
    least_side,
    n_workers,
    train_loader,
)
from r2mae_vision.data.multilabel import is_multi
from r2mae_vision.data.pairs import identity, open_pair
from r2mae_vision.data.sources import Source, how_to_open
from r2mae_vision.data.store import ImageStore
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.mae.callbacks import UnreadableImages
from r2mae_vision.mae.classifier import Classifier
from r2mae_vision.mae.encoders import EncoderSpec, build_encoder, open_encoder
from r2mae_vision.mae.inference import accuracy, crop_pct, logits_of, precision_of_classes
from r2mae_vision.mae.options import Finetune
from r2mae_vision.mae.several import check_judged
from r2mae_vision.mae.shape import MAEShape
from r2mae_vision.mae.timm_folder import CONFIG, write_config

# Seeds may be added; model and data are compared by content: they may have been moved.
FREE = ("seeds", "model", "data", "labels", "validation")


def train_transform(config: Finetune, shape: MAEShape) -> Any:
    """Return timm's training transform: PIL image → (C, H, W) uint8.

    Raises:
        UserError: timm does not know the policy.
    """
    from timm.data.transforms_factory import create_transform

    policy = config.auto_augment if config.auto_augment != "none" else None
    try:
        return create_transform(
            shape.size,
            is_training=True,
            mean=shape.mean,  # the colour that rotations leave behind
            use_prefetcher=True,
            scale=config.crop_scale,
            ratio=proportions(shape.size),
            hflip=0.5 if config.flip else 0.0,
            color_jitter=0.0,
            auto_augment=policy,
            interpolation="bicubic",
        )
    except Exception as error:  # timm's parser of policies raises what it stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"--auto_augment {policy}: timm does not know this policy ({reason}); such as rand-m9-mstd0.5-inc1, or none"
        ) from None


def transform_of(config: Finetune, shape: MAEShape, source: Source) -> Any:
    """Return the training transform of a source's images: timm's of pictures, crop and flip of others.

    Raises:
        UserError: timm does not know the policy, or it is of pictures and the images are none.
    """
    if not (isinstance(source, ImageStore) and source.span is not None):
        return train_transform(config, shape)
    if config.auto_augment != "none":
        raise UserError(
            f"--auto_augment {config.auto_augment} is of pictures, and {source.name} keeps the numbers of its files; "
            "add --auto_augment none"
        )
    return RandomCrop(shape.image_size, config.crop_scale, config.flip)


def finetune(config: Finetune) -> RunFolder:
    """Fine-tune with every seed, evaluate on the validation part, and return the run folder; finished seeds are kept.

    Raises:
        UserError: model, data or device do not fit, or the run was interrupted.
    """
    check_tracker(config.logger)
    device, world = resolve_device(config.device), config.world_size
    spec = open_encoder(config.model, config.timm_model, config.image_size, config.mean, config.std)
    if config.out is not None:
        check_output(config.out, [config.model.removeprefix("scratch:"), config.data, config.labels, config.validation])
    train_source, val_source, micro = checked(config, spec.shape, device)
    seeds = config.seeds if config.seeds is not None else (spec.seed,)
    # A step's randomness depends on how it is divided, so a run resumes in the same parts.
    settings = {**resolved(config), "seeds": seeds, "micro_batch_size": micro}
    sources = identity(train_source, val_source) | spec.identity
    with open_run(
        "r2mae-vision", "finetune", config.out, settings, n_processes=world, sources=sources, free=FREE,
        models={Path(config.model): (spec.scheme, spec.seed)},
    ) as run:  # fmt: skip
        for seed in seeds:
            if not (run.path / "parts" / f"seed{seed}.json").exists():
                _one(config, spec, train_source, val_source, seed, micro, device, run)
        parts = sorted((run.path / "parts").glob("seed*.json"), key=lambda file: int(file.stem.removeprefix("seed")))
        if first_rank():
            run.write_results([record for part in parts for record in read_records(part)])
        return run


def checked(config: Finetune, shape: MAEShape, device: str) -> tuple[Source, Source, int]:
    """Return training and validation images, and how many a device computes at once.

    Raises:
        UserError: the data has no classes, or an option does not fit.
    """
    train_transform(config, shape)
    train_source, val_source = open_pair(config.data, config.validation, how_to_open(config))
    for source in (train_source, val_source):
        check_range(source, shape.pixel_range)
        if isinstance(source, ImageStore) and source.span is not None:
            check_channels(source, shape.in_chans)
    transform_of(config, shape, train_source)
    several = is_multi(train_source.labels)
    if several:
        check_judged(val_source.labels, f"{config.data}: validation images")
    elif len(train_source.classes) < 2:
        raise UserError(f"{config.data} has a single class, {', '.join(train_source.classes)}; fine-tuning needs two")
    largest, mixes = 128 if device == "cuda" else 64, config.mixup + config.cutmix > 0
    micro = micro_batch_size(config.micro_batch_size, config.batch_size, config.world_size, largest, even=mixes)
    if micro % 2 and mixes:
        raise UserError(f"mixup needs an even number of images at once, not {micro}; change --micro_batch_size")
    return train_source, val_source, micro


def _one(
    config: Finetune,
    spec: EncoderSpec,
    train_source: Source,
    val_source: Source,
    seed: int,
    micro: int,
    device: str,
    run: RunFolder,
) -> None:
    """Fine-tune with one seed, evaluate the model, and write its records and weights."""
    start = time.perf_counter()
    arguments = {
        "num_classes": len(train_source.classes),
        "global_pool": config.pool,
        "drop_path_rate": config.drop_path,
    }
    model = build_encoder(spec, seed, **arguments)
    nn.init.trunc_normal_(model.head.weight, std=2e-5, generator=torch.Generator().manual_seed(seed))  # as MAE does
    module = Classifier(model, spec, config, seed)
    workers = n_workers(config.workers)
    if config.max_train is not None:
        train_source = fewer(train_source, config.max_train, seed)
    order = StepOrder(len(train_source), config.batch_size, micro, seed)
    loader = train_loader(
        train_source,
        transform_of(config, spec.shape, train_source),
        order,
        in_chans=spec.shape.in_chans,
        num_workers=workers,
        device=device,
        least=least_side(spec.shape.image_size, config.crop_scale[0]),
    )
    home = RunFolder(run.path / f"seed{seed}", run.config, free=FREE)
    trainer = fit(
        module,
        loader,
        home,
        max_epochs=config.epochs,
        device=device,
        devices=config.devices,
        strategy=config.strategy,
        num_nodes=config.nodes,
        precision=precision(config.precision, device),
        accumulate_grad_batches=order.micro_batches(config.world_size),
        gradient_clip_val=config.clip,
        checkpoint_every=config.checkpoint_every,
        tracker=config.logger,
        project="r2mae-vision",
        callbacks=[UnreadableImages(train_source, home.path / "skipped.txt")],
        description="fine-tuning",
        progress=config.progress,
    )
    if trainer.is_global_zero:
        records = _evaluate_and_save(config, spec, module, train_source.name, val_source, device, home)
        crop, classes = crop_pct(config.crop_pct, spec), train_source.classes
        several = is_multi(train_source.labels)
        write_config(
            home.path, spec.shape, module.model, crop_pct=crop, pool=config.pool, classes=classes, several=several,
            deep_range=train_source.deep_range,
        )  # fmt: skip
        made = [home.path / CONFIG, *sorted(home.path.glob("model*.safetensors"))]
        write_text(home.path / "SHA256SUMS", "".join(f"{file_digest(file)}  {file.name}\n" for file in made))
        write_records(
            run.path / "parts" / f"seed{seed}.json", stamped(records, device_name(device), time.perf_counter() - start)
        )
    trainer.strategy.barrier()


def _evaluate_and_save(
    config: Finetune, spec: EncoderSpec, module: Classifier, task: str, source: Source, device: str, home: RunFolder
) -> list[Record]:
    """Return the accuracy of the model, and of the average of its weights, and save both."""
    module.check_finite()
    networks = {"": module.model}
    if module.average:
        networks["_ema"] = module.average[0].module  # pyright: ignore[reportAttributeAccessIssue]
    bf16 = precision(config.precision, device) == "bf16-mixed"
    records = []
    for suffix, network in networks.items():
        settings: dict[str, Any] = {"device": device, "bf16": bf16, "workers": n_workers(config.workers)}
        answers = logits_of(network, spec, source, crop_pct=crop_pct(config.crop_pct, spec), **settings)
        if is_multi(source.labels):
            values = precision_of_classes(answers, source.classes, home.path / f"classes{suffix}.csv")
        else:
            values = accuracy(answers)
        if unreadable := values.pop("unreadable"):
            say(f"{unreadable:,.0f} validation images could not be decoded; their neighbours were evaluated instead")
        records += [
            Record(task, metric + suffix, value, spec.scheme, module.seed, len(source), "validation")
            for metric, value in values.items()
        ]
        save_tensors(network.state_dict(), home.path / f"model{suffix}.safetensors")
    return records


def fewer(source: Source, n: int, seed: int) -> Source:
    """Return n images of a source, drawn by the seed; all if it has no more."""
    if n >= len(source):
        return source
    chosen = np.sort(permutation(len(source), seed, 0)[:n])
    return source.subset(chosen)


def finetune_command(config: Finetune) -> None:
    """`r2mae-vision finetune`."""
    spec = open_encoder(config.model, config.timm_model, config.image_size, config.mean, config.std)
    device = resolve_device(config.device)
    say(
        f"Fine-tuning {spec.shape.model} ({spec.scheme}) on {config.data} for {config.epochs} epochs, "
        f"on {device_name(device)}"
    )
    run = finetune(config)
    if first_rank():
        show_table(run, run.results(), RANK_BY, f"{config.data}: validation images")
    say(f"Done: {run.path} (results.json, table.md)")

"""`sweep`: which mask ratio suits the user's images, judged by a linear probe or by fine-tuning."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from r2mae_core import (
    Direction,
    RatioSampler,
    Record,
    RunFolder,
    StepOrder,
    UserError,
    check_output,
    options_as_words,
    resolve_device,
    run_sweep,
)
from r2mae_vision.data.multilabel import is_multi
from r2mae_vision.data.pairs import identity
from r2mae_vision.data.sources import Source, how_to_open
from r2mae_vision.mae.finetune import checked, finetune
from r2mae_vision.mae.masking import check_visible
from r2mae_vision.mae.model_options import Probe
from r2mae_vision.mae.nested import columns_of, nested_options
from r2mae_vision.mae.options import Finetune, Pretrain, Sweep
from r2mae_vision.mae.pretrain import VisionModality, pretrain
from r2mae_vision.mae.probe import open_labelled, probe
from r2mae_vision.mae.several import SEVERAL

ONE_DEVICE = ("devices", "nodes", "strategy")


def sweep(config: Sweep) -> RunFolder:
    """Find the mask ratio for the user's images and return the run folder with the answer; see `run_sweep`.

    Raises:
        UserError: data or options do not fit, which is said before anything is trained; or as `run_sweep`.
    """
    device = resolve_device(config.device)
    if config.out is not None:
        check_output(config.out, [config.data, config.labels])
    train, held_out = _check(config, device)
    return run_sweep(
        "r2mae-vision",
        "vision",
        config,
        partial(_measure, config, device),
        metrics=metrics_of(config, several=is_multi(train.labels)),
        pretrain_command=partial(_pretrain_command, config),
        sources=identity(train, held_out),
    )


def sweep_command(config: Sweep) -> None:
    """`r2mae-vision sweep`."""
    sweep(config)


def metrics_of(config: Sweep, *, several: bool = False) -> dict[str, Direction]:
    """Return what the evaluation measures, the default first; `several`: images may have several classes."""
    names = SEVERAL if several else ("top1", "top5")
    if config.evaluate == "finetune":
        averaged = [f"{name}_ema" for name in names] if config.finetune.get("ema") is not None else []
        return dict.fromkeys([*names, *averaged], "max")
    if several:
        return dict.fromkeys([f"linear_{name}" for name in names], "max")
    neighbours = [f"knn{k}_top1" for k in _probe(config, Path(), 0, Path(), "cpu").k]
    return dict.fromkeys(["linear_top1", "linear_top5", *neighbours], "max")


def _measure(
    config: Sweep, device: str, sampler: RatioSampler, seed: int, share: float, home: Path
) -> Sequence[Record]:
    """Pretrain for a share of the epochs, evaluate, and return the records; what is done is not done again."""
    run = pretrain(_pretrain(config, sampler, seed, epochs_of(config, share), home / "pretrain", device))
    if config.evaluate == "finetune":
        return finetune(_finetune(config, run.path, seed, home / "finetune", device)).results()
    return probe(_probe(config, run.path, seed, home / "probe", device)).results()


def epochs_of(config: Sweep, share: float) -> int:
    """Return the epochs of a pretraining of this share of the full length."""
    return max(1, round(share * config.epochs))


def _pretrain(config: Sweep, sampler: Any, seed: int, epochs: int, out: Path, device: str) -> Pretrain:
    common = {"data": config.data, "mask_ratio": sampler, "seed": seed, "epochs": epochs, "out": out}
    common |= {"device": device, "progress": config.progress, **columns_of(config)}
    return nested_options(Pretrain, config.pretrain, common, "sweep")


def _probe(config: Sweep, model: Path, seed: int, out: Path, device: str) -> Probe:
    return nested_options(Probe, config.probe, _common(config, model, seed, out, device), "sweep")


def _finetune(config: Sweep, model: Path, seed: int, out: Path, device: str) -> Finetune:
    return nested_options(Finetune, config.finetune, _common(config, model, seed, out, device), "sweep")


def _common(config: Sweep, model: Path, seed: int, out: Path, device: str) -> dict[str, Any]:
    common = {"model": str(model), "data": config.data, "seeds": (seed,), "device": device}
    return common | {"progress": config.progress, "out": out, **columns_of(config)}


def _check(config: Sweep, device: str) -> tuple[Source, Source]:
    """Return training and validation images; refuse what would fail later, before anything is trained."""
    for name in ("pretrain", "finetune"):
        if several := [key for key in ONE_DEVICE if key in getattr(config, name)]:
            raise UserError(
                f"--{name} {several[0]}: a training of a sweep has one device; start the same command once for each "
                "device, with one --storage"
            )
    unused = Path("unused")
    task = VisionModality(_pretrain(config, "fixed", 0, config.epochs, unused, device))
    task.sampler()
    for ratio in (*config.ratios, *(low for low, _ in config.ranges or ())):
        check_visible(ratio, task.model.n_patches)
    StepOrder(task.n_samples, task.batch_size, task.micro_batch_size(device))
    if config.evaluate == "probe":
        probing = _probe(config, unused, 0, unused, device)
        return open_labelled(config.data, probing, how_to_open(config))
    tuned = _finetune(config, unused, 0, unused, device)
    train, held_out, micro = checked(tuned, task.model.shape, device)
    StepOrder(min(len(train), tuned.max_train or len(train)), tuned.batch_size, micro)
    return train, held_out


def _pretrain_command(config: Sweep, mask_ratio: str) -> str:
    """Return the command of a pretraining with the answer."""
    words = [
        "r2mae-vision pretrain",
        shlex.quote(config.data),
        f"--epochs {config.epochs}",
        options_as_words({name: _plain(value) for name, value in columns_of(config).items()}),
        options_as_words(config.pretrain),
    ]
    return " ".join(word for word in (*words, mask_ratio) if word)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value)

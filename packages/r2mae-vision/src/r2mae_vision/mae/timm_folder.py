"""timm's own folder of a model: `config.json` and `model.safetensors`, for `timm.create_model("local-dir:FOLDER")`.

With it timm knows the architecture, image and patch size, normalisation, head and class names of the weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from r2mae_core import (
    RunFolder,
    UserError,
    as_json,
    file_digest,
    read_json,
    read_records,
    read_text,
    save_tensors,
    write_text,
)
from r2mae_vision.data.sizes import plain
from r2mae_vision.data.sources import data_of
from r2mae_vision.data.tensors import read_tensors
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.shape import IMAGENET_MEAN, IMAGENET_STD, MAEShape
from r2mae_vision.mae.weights import weights_files

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def export_timm(model: MaskedAutoencoder, file: Path) -> Path:
    """Write the encoder as `timm.create_model(name, num_classes=0, checkpoint_path=file)` loads it."""
    save_tensors(model.encoder.state_dict(), file)
    return file


def write_config(
    folder: Path,
    shape: MAEShape,
    model: Any,
    *,
    crop_pct: float,
    pool: str = "token",
    classes: Sequence[str] = (),
    several: bool = False,
    deep_range: list[float] | None = None,
) -> None:
    """Write timm's `config.json` of a model.

    Args:
        folder: where `model.safetensors` lies.
        shape: of its encoder.
        model: timm's model.
        crop_pct: share of the picture's side that it was evaluated on.
        pool: what its head reads: "token" or "avg".
        classes: names of its head's classes.
        several: whether an image may have several of them: the head's answers are then for a sigmoid, not a softmax.
        deep_range: which pixels of files of more than eight bits were black and white; see `Reading`.
    """
    arguments: dict[str, Any] = {"img_size": plain(shape.image_size), "in_chans": shape.in_chans, **shape.model_args}
    if shape.patch_size is not None:
        arguments["patch_size"] = shape.patch_size
    if pool != "token":
        arguments["global_pool"] = pool
    config: dict[str, Any] = {
        "architecture": shape.model,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": pool,
        **({} if shape.pixel_range is None else {"pixel_range": list(shape.pixel_range)}),
        **({} if deep_range is None else {"deep_range": deep_range}),
        **({"label_names": list(classes)} if classes else {}),
        **({"multi_label": True} if several else {}),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [shape.in_chans, *shape.size],
            "fixed_input_size": True,
            "pool_size": None,
            "interpolation": "bicubic",
            "crop_pct": crop_pct,
            "mean": list(shape.mean),
            "std": list(shape.std),
            "num_classes": model.num_classes,
            # timm would adapt the first layer of other than three channels, which fits them already, and fail at five.
            "first_conv": "patch_embed.proj" if shape.in_chans == 3 else None,
            "classifier": "head",
        },
    }
    write_text(folder / CONFIG, as_json(config, indent=2))  # timm reads it: without a checksum inside


def find(place: Path) -> Path | None:
    """Return timm's folder of a fine-tuned run, of an export, or one itself; None where there is none.

    Raises:
        UserError: the run was fine-tuned with several seeds.
    """
    for folder in (place, place / "timm"):
        if (folder / CONFIG).is_file() and "architecture" in read_json(folder / CONFIG):
            return folder
    seeds = sorted(file.parent for file in place.glob(f"seed*/{CONFIG}"))
    if len(seeds) > 1:
        raise UserError(f"{place} has {len(seeds)} models, one per seed; name one, such as {seeds[0]}")
    return seeds[0] if seeds else None


def read_shape(folder: Path) -> MAEShape:
    """Return the shape that timm's folder states.

    Raises:
        UserError: `config.json` is damaged, or does not describe a ViT.
    """
    stated = read_json(folder / CONFIG)
    of_weights, arguments = stated.get("pretrained_cfg", stated), dict(stated.get("model_args") or {})
    try:
        size = arguments.pop("img_size", None) or of_weights["input_size"][1:]
        in_chans = arguments.pop("in_chans", None) or of_weights.get("input_size", [3])[0]
        plain = {
            **MAEShape(positions="learned").plain(),
            "model": stated["architecture"],
            "image_size": tuple(size) if isinstance(size, list) else size,
            "in_chans": in_chans,
            "patch_size": arguments.pop("patch_size", None),
            "mean": tuple(of_weights.get("mean") or IMAGENET_MEAN),
            "std": tuple(of_weights.get("std") or IMAGENET_STD),
            "pixel_range": tuple(stated["pixel_range"]) if stated.get("pixel_range") else None,
        }
        for name in ("global_pool", "num_classes", "drop_path_rate"):
            arguments.pop(name, None)
        return MAEShape.of({**plain, "model_args": arguments})
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise UserError(f"{folder / CONFIG} is damaged: it does not describe a model of timm") from None


def read_state(folder: Path) -> dict[str, Tensor]:
    """Return the tensors in timm's folder, after a look at its checksums, if `finetune` wrote some.

    Raises:
        UserError: a file is missing or damaged.
    """
    sums = folder / "SHA256SUMS"
    for line in read_text(sums).splitlines() if sums.is_file() else ():
        digest, _, name = line.partition("  ")
        if name in (CONFIG, WEIGHTS) and not ((folder / name).is_file() and file_digest(folder / name) == digest):
            raise UserError(f"{folder / name} is damaged: its checksum is not that in {sums.name}")
    return {name: value for file in weights_files(folder) for name, value in read_tensors(file).items()}


def named(folder: Path) -> dict[str, Any]:
    """Return what tables call a model in timm's folder, its seed and its data, as far as a run states them."""
    records = folder.parent / "parts" / f"{folder.name}.json"
    if not records.is_file() or not (folder.parent / "config.yaml").is_file():
        return {"scheme": folder.parent.name if folder.name == "timm" else folder.name}
    found = read_records(records)
    scheme = f"{found[0].scheme}, fine-tuned" if found else folder.name
    seed = found[0].seed if found else 0
    return {"scheme": scheme, "seed": seed, **data_of(RunFolder.open(folder.parent).config)}

"""Samplers from and to plain data: what a user can write in YAML or on the command line."""

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.ratio.samplers import Curriculum, Fixed, Grid, LinearDecay, MaskRatioSampler, RatioSampler
from r2mae_core.ratio.schemes import scheme, scheme_names


def sampler_from_config(
    config: "float | str | Mapping[str, Any] | RatioSampler", modality: str | None = None, seed: int | None = None
) -> RatioSampler:
    """Turn what a user can write in YAML or on the command line into a sampler.

    Args:
        config: a number (a fixed ratio), a scheme's name, `{"scheme": name, **overrides}`,
            `{"class_path": …, "init_args": {…}}`, or a sampler, which passes through.
        modality: where a scheme's ratios come from.
        seed: seed of the draws, where the config gives none. A sampler that passes through keeps its own.

    Raises:
        UserError: none of these, or arguments out of range.
    """
    if isinstance(config, MaskRatioSampler):
        return config  # pyright: ignore[reportReturnType]
    try:
        if isinstance(config, Mapping) and "class_path" in config:
            arguments = dict(config.get("init_args") or {})
            sampler = _from_class_path({**config, "init_args": arguments})
            return sampler if seed is None or "seed" in arguments else with_seed(sampler, seed)
        if isinstance(config, Mapping) and "scheme" in config:
            overrides = {key: value for key, value in config.items() if key != "scheme"}
            sampler = scheme(config["scheme"], modality, **overrides)
            return sampler if seed is None or "seed" in overrides else with_seed(sampler, seed)
        if isinstance(config, str):
            ratio = _as_number(config)
            sampler = Fixed(ratio) if ratio is not None else scheme(config, modality)
            return sampler if seed is None else with_seed(sampler, seed)
        if isinstance(config, int | float) and not isinstance(config, bool):
            return Fixed(config)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"mask_ratio: {error}") from None
    known = ", ".join(scheme_names(modality))
    raise UserError(f"mask_ratio must be a number, a scheme's name ({known}) or a sampler, got {config!r}")


def short_name(sampler: MaskRatioSampler) -> str:
    """Return a name for tables, such as "Uniform(0.6, 0.9)": the class and its ratios, without the seed."""
    if not isinstance(sampler, RatioSampler):
        return type(sampler).__name__
    values = [getattr(sampler, field.name) for field in fields(sampler)]  # pyright: ignore[reportArgumentType]
    shown = [
        f"{value:g}" if isinstance(value, float) else short_name(value)
        for value in values
        if isinstance(value, float | RatioSampler)
    ]
    if isinstance(sampler, Curriculum) and sampler.k0:
        shown.append("k0")
    if isinstance(sampler, Grid):
        shown = [f"{len(sampler.values)} values", *(f"{bound:g}" for bound in sampler.bounds(0))]
    return f"{type(sampler).__name__}({', '.join(shown)})"


def scheme_name(sampler: MaskRatioSampler, modality: str | None = None) -> str:
    """Return what tables call a sampler: the paper's name where it is one of the modality's schemes, else its ratios.

    Seeds and a curriculum's marks in steps do not count. A fixed ratio shows itself: "fixed 0.75".
    """
    if not isinstance(sampler, RatioSampler):
        return type(sampler).__name__
    for name in scheme_names(modality) if modality else ():
        try:
            named = scheme(name, modality)
        except UserError:
            continue  # a scheme of the user's that needs arguments
        if _without_marks(named) == _without_marks(sampler):
            return f"{name} {sampler.ratio:g}" if isinstance(sampler, Fixed) else name
    return f"fixed {sampler.ratio:g}" if isinstance(sampler, Fixed) else short_name(sampler)


def _without_marks(sampler: RatioSampler) -> RatioSampler:
    plain = with_seed(sampler, 0)
    if isinstance(plain, LinearDecay):
        return replace(plain, stages=None)
    return replace(plain, freeze_steps=0, ramp=None) if isinstance(plain, Curriculum) else plain


def with_seed(sampler: RatioSampler, seed: int) -> RatioSampler:
    """Return the sampler with another seed; one that draws nothing is returned as it is."""
    if isinstance(sampler, Curriculum):
        return replace(sampler, ratio=with_seed(sampler.ratio, seed))
    return replace(sampler, seed=seed) if hasattr(sampler, "seed") else sampler  # pyright: ignore[reportArgumentType]


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def sampler_to_config(sampler: RatioSampler) -> dict[str, Any]:
    """Return a sampler as plain data, `{"class_path": …, "init_args": {…}}`, ready for YAML.

    Raises:
        ValueError: the sampler is not a dataclass, so its arguments cannot be read back.
    """
    if not hasattr(sampler, "__dataclass_fields__"):
        raise ValueError(f"{sampler!r} cannot be written to a config: make its class a dataclass")
    name = type(sampler).__name__
    home = "r2mae_core" if type(sampler).__module__ == RatioSampler.__module__ else type(sampler).__module__
    arguments = {field.name: getattr(sampler, field.name) for field in fields(sampler)}  # pyright: ignore[reportArgumentType]
    return {
        "class_path": f"{home}.{name}",
        "init_args": {
            key: sampler_to_config(value)
            if isinstance(value, RatioSampler)
            else list(value)
            if isinstance(value, tuple)
            else value
            for key, value in arguments.items()
        },
    }


def _from_class_path(config: Mapping[str, Any]) -> RatioSampler:
    """Build a sampler from what `sampler_to_config` returned. The class path may be a bare built-in name.

    Raises:
        ValueError: the class cannot be found, or its arguments are wrong.
    """
    path = str(config["class_path"])
    home, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(home or "r2mae_core"), name)
    except (ImportError, AttributeError) as error:
        known = ", ".join(sorted(cls.__name__ for cls in RatioSampler.__subclasses__()))
        raise ValueError(f"no mask-ratio sampler {path!r}: {error}; built in: {known}") from None
    arguments = {
        key: _from_class_path(value) if isinstance(value, Mapping) and "class_path" in value else value
        for key, value in (config.get("init_args") or {}).items()
    }
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for {path}: {error}") from None

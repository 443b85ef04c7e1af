"""Samplers from and to plain data: what a user can write in YAML or on the command line."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from r2mae_core.lab.config_files import class_paths, imported_class
from r2mae_core.lab.errors import UserError
from r2mae_core.ratio.samplers import Curriculum, Fixed, Grid, LinearDecay, MaskRatioSampler, RatioSampler, Uniform
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
    if not hasattr(sampler, "__dataclass_fields__"):
        return type(sampler).__name__
    return _name_of_config(sampler_to_config(sampler))  # pyright: ignore[reportArgumentType]


def _name_of_config(config: Mapping[str, Any]) -> str:
    """Return `short_name` of a sampler that is plain data; its class need not be there."""
    name = str(config.get("class_path")).rpartition(".")[2]
    arguments = dict(config.get("init_args") or {})
    if name == Grid.__name__ and arguments.get("values"):
        values = arguments["values"]
        return f"Grid({len(values)} values, {min(values):g}, {max(values):g})"
    shown = [
        f"{value:g}" if isinstance(value, float) else _name_of_config(value)
        for value in arguments.values()
        if isinstance(value, float) or (isinstance(value, Mapping) and "class_path" in value)
    ]
    if name == Curriculum.__name__ and arguments.get("k0"):
        shown.append("k0")
    return f"{name}({', '.join(shown)})"


def name_of_scheme(config: Any, modality: str | None = None) -> str:
    """Return `scheme_name` of a scheme as a run folder keeps it; a sampler of somebody's own is named, not built.

    Raises:
        UserError: it is no scheme, or a built-in sampler's arguments are wrong.
    """
    if isinstance(config, Mapping) and "class_path" in config:
        try:
            for path in class_paths(config):
                sampler_class(path)
        except UserError:
            return _name_of_config(config)
    return scheme_name(sampler_from_config(config, modality), modality)


def scheme_name(sampler: MaskRatioSampler, modality: str | None = None) -> str:
    """Return what tables call a sampler: the paper's name where it is one of the modality's schemes, else its ratios.

    Seeds and a curriculum's marks in steps do not count. A fixed ratio shows itself: "fixed 0.75".
    """
    if not isinstance(sampler, RatioSampler):
        return short_name(sampler)
    for name in scheme_names(modality) if modality else ():
        try:
            named = scheme(name, modality)
        except UserError:
            continue  # a scheme of the user's that needs arguments
        if _without_marks(named) == _without_marks(sampler):
            return f"{name} {sampler.ratio:g}" if type(sampler) is Fixed else name
    return f"fixed {sampler.ratio:g}" if type(sampler) is Fixed else short_name(sampler)


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


def sampler_class(path: str) -> type:
    """Return the class of a sampler that data names, without importing anything.

    Data may come from somebody else, so it can name the built-in samplers, with or without their module, and those
    that this process has imported by itself.

    Raises:
        UserError: it names something else, or a class that is not a sampler.
    """
    home, _, name = path.rpartition(".")
    built_in = {cls.__name__: cls for cls in (Fixed, Uniform, LinearDecay, Grid, Curriculum)}
    if name in built_in and home in ("", "r2mae_core", RatioSampler.__module__):
        return built_in[name]
    if not home or home.partition(".")[0] == "r2mae_core":
        raise UserError(f"there is no mask-ratio sampler {path!r}; built in: {', '.join(sorted(built_in))}")
    return imported_class(path)


def _from_class_path(config: Mapping[str, Any]) -> RatioSampler:
    """Build a sampler from what `sampler_to_config` returned. The class path may be a bare built-in name.

    Raises:
        UserError: a class is not known, at any depth; see `sampler_class`.
        ValueError: the arguments are wrong.
    """
    for path in class_paths(config):
        sampler_class(path)  # all of them, before any is called
    path, given = str(config["class_path"]), config.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"the init_args of {path} must be named, got {given!r}")
    arguments = {
        key: _from_class_path(value) if isinstance(value, Mapping) and "class_path" in value else value
        for key, value in given.items()
    }
    try:
        return sampler_class(path)(**arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for {path}: {error}") from None

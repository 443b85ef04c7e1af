"""Samplers from and to plain data: what a user can write in YAML or on the command line."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from r2mae_core.lab.class_paths import class_paths, imported_class
from r2mae_core.lab.errors import UserError
from r2mae_core.ratio.densities import Arccos, Beta, Choice, Power, Ramp
from r2mae_core.ratio.protocol import MaskRatioSampler, RatioSampler
from r2mae_core.ratio.samplers import Curriculum, Fixed, Grid, Uniform
from r2mae_core.ratio.schedules import Cosine, LinearDecay, Phases, PiecewiseLinear, Slope
from r2mae_core.ratio.schemes import scheme, scheme_names
from r2mae_core.ratio.truncated_normal import TruncatedNormal

BUILT_IN: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Arccos, Beta, Choice, Cosine, Curriculum, Fixed, Grid, LinearDecay, Phases, PiecewiseLinear, Power, Ramp, Slope,
        TruncatedNormal, Uniform,
    )
}  # fmt: skip
"""What data may name: the built-in samplers, and what their parameters may be."""


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
            return _from_class_path(config, seed)
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
    shown = [text for value in arguments.values() if (text := _shown(value))]
    if name == Curriculum.__name__ and arguments.get("k0"):
        shown.append("k0")
    return f"{name}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return _name_of_config(value) if "class_path" in value else ""
    if isinstance(value, list | tuple):
        return "/".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else ""


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
    return replace(plain, freeze_steps=0, ramp=None, falls_from="thaw") if isinstance(plain, Curriculum) else plain


def with_seed(sampler: RatioSampler, seed: int) -> RatioSampler:
    """Return the sampler with another seed; one that draws nothing is returned as it is."""
    if isinstance(sampler, Curriculum):
        return replace(sampler, ratio=with_seed(sampler.ratio, seed))
    if isinstance(sampler, Phases):
        phases = (with_seed(phase, seed) if isinstance(phase, RatioSampler) else phase for phase in sampler.phases)
        return replace(sampler, phases=tuple(phases))
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
    return _to_data(sampler)


def _to_data(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_to_data(item) for item in value]
    if not isinstance(value, RatioSampler | Ramp):
        return value
    home = "r2mae_core" if type(value) in BUILT_IN.values() else type(value).__module__
    arguments = {field.name: _to_data(getattr(value, field.name)) for field in fields(value)}  # pyright: ignore[reportArgumentType]
    return {"class_path": f"{home}.{type(value).__name__}", "init_args": arguments}


def sampler_class(path: str) -> type:
    """Return the class of a sampler that data names, without importing anything.

    Data may come from somebody else, so it can name the built-in samplers, with or without their module, and those
    that this process has imported by itself.

    Raises:
        UserError: it names something else, or a class that is not a sampler.
    """
    home, _, name = path.rpartition(".")
    if name in BUILT_IN and home in ("", "r2mae_core", RatioSampler.__module__, BUILT_IN[name].__module__):
        return BUILT_IN[name]
    if not home or home.partition(".")[0] == "r2mae_core":
        raise UserError(f"there is no mask-ratio sampler {path!r}; built in: {', '.join(sorted(BUILT_IN))}")
    return imported_class(path)


def _from_class_path(config: Mapping[str, Any], seed: int | None) -> RatioSampler:
    """Build a sampler from what `sampler_to_config` returned. The class path may be a bare built-in name.

    Args:
        config: the class and its arguments.
        seed: for what draws the ratio itself, where the config gives it none.

    Raises:
        UserError: a class is not known, at any depth; see `sampler_class`.
        ValueError: the arguments are wrong.
    """
    for path in class_paths(config):
        sampler_class(path)  # all of them, before any is called
    built = _built(config, seed)
    if not isinstance(built, MaskRatioSampler):
        raise ValueError(f"{config['class_path']} is not a sampler, but a parameter of one")
    return built  # pyright: ignore[reportReturnType]


def _built(config: Mapping[str, Any], seed: int | None) -> Any:
    path, given = str(config["class_path"]), config.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"the init_args of {path} must be named, got {given!r}")

    def argument(value: Any, seed: int | None) -> Any:
        if isinstance(value, Mapping) and "class_path" in value:
            return _built(value, seed)
        return [argument(item, seed) for item in value] if isinstance(value, list | tuple) else value

    # What `ratio` and `phases` hold draws the ratio itself; a bound draws apart from it, with its own seed.
    draws = ("ratio", "phases")
    arguments = {key: argument(value, seed if key in draws else None) for key, value in given.items()}
    cls = sampler_class(path)
    if seed is not None and "seed" not in arguments and "seed" in {field.name for field in fields(cls)}:
        arguments["seed"] = seed
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"wrong arguments for {path}: {error}") from None

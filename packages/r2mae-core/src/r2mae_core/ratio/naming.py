"""What a pretraining's masking is called: in tables by a short name, in pages and cards in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.ratio.config import name_of_scheme, sampler_from_config

SHAPE_OPTIONS = ("mean_span", "block_area", "gene_sets")
"""Options that say how a mask's shape is; runs that differ in one are different schemes."""
_DRAWN = {"sample": "drawn for each sample", "micro_batch": "drawn for each micro-batch"}


def variant(options: Mapping[str, Any]) -> str:
    """Return how a pretraining's masking differs from the paper's, such as " per sample, in spans"; "" if it does not.

    Two runs that differ in this are two schemes in a table.
    """
    return (" per sample" if options.get("ratio_per") == "sample" else "") + _weight_and_shape(options)


def scheme_in_words(scheme: Any, options: Mapping[str, Any], modality: str | None = None) -> str:
    """Return the masking as a person would say it, such as "uniform from 0.15 to 0.4, drawn for each sample (seed 0)".

    Args:
        scheme: a sampler, or what a run folder keeps of one. One of somebody's own that is not imported is named only.
        options: of the pretraining.
        modality: where a scheme's name is looked up.
    """
    try:
        sampler = sampler_from_config(scheme, modality)
    except UserError:
        return name_of_scheme(scheme, modality) + variant(options)
    words = sampler.describe()
    if (drawn := _DRAWN.get(str(options.get("ratio_per")))) is not None:
        words = words.replace("drawn at every step", drawn)
    return words + _weight_and_shape(options)


def _weight_and_shape(options: Mapping[str, Any]) -> str:
    weight = ", loss / ratio" if options.get("loss_weight") == "inverse_ratio" else ""
    shape = str(options.get("mask_shape", "independent")).replace("_", " ")
    details = [_detail(options[name]) for name in SHAPE_OPTIONS if options.get(name) is not None]
    return weight + ("" if shape == "independent" else f", in {' '.join([shape, *details])}")


def _detail(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_detail, value))
    return f"{value:g}" if isinstance(value, int | float) else f"of {Path(str(value)).name}"

"""What tables call a pretraining: the name of its scheme, and its seed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.run_folder import RunFolder
from r2mae_core.lab.setups import named_apart
from r2mae_core.ratio.config import name_of_scheme, scheme_name
from r2mae_core.ratio.naming import variant
from r2mae_core.ratio.protocol import RatioSampler


def scheme_in_tables(sampler: RatioSampler, modality: str, options: Mapping[str, Any] | None = None) -> str:
    """Return what tables call a scheme: its name, and what else of the masking is not the paper's.

    Args:
        sampler: the scheme.
        modality: where its name is looked up.
        options: of the pretraining, as `resolved` returns them.
    """
    return scheme_name(sampler, modality) + variant(options or {})


def run_identity(path: Path, modality: str) -> tuple[str, int]:
    """Return what tables call the scheme of a run of `pretrain`, and the run's seed.

    Raises:
        UserError: it is not the run folder of a pretraining.
    """
    config = RunFolder.open(path).config
    if "mask_ratio" not in config:
        raise UserError(f"{path} is not a run folder of pretrain")
    try:
        seed = int(config["seed"])
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path / 'config.yaml'} has no seed: it is damaged, or not of pretrain") from None
    name = name_of_scheme(config["mask_ratio"], modality)  # of a sampler of somebody's own, without its code
    return name + variant(config), seed


def run_identities(paths: Iterable[Path], modality: str) -> dict[Path, tuple[str, int]]:
    """Return run folder → (scheme, seed) of several runs that one table is to compare.

    Where runs of one scheme differ in more than the seed, the names say in what: "r2mae · epochs 20".

    Raises:
        UserError: a folder is not one of `pretrain`, or two have the same configuration and seed.
    """
    found: dict[Path, tuple[str, int]] = {}
    for path in paths:
        if path in found:
            raise UserError(f"{path} is named twice; leave out the repeat")
        found[path] = run_identity(path, modality)
    named = named_apart(found)
    for path, identity in named.items():
        other = next(other for other, same in named.items() if same == identity)
        if other != path:
            raise UserError(
                f"{other} and {path} are two runs of {identity[0]} with the same options and seed {identity[1]}; name "
                "one of them"
            )
    return named

"""What a run's records were measured with: two runs are seeds of one row only where nothing but the seed differs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.sealed import read_json, read_yaml

FREE = ("device", "log_every", "checkpoint_every", "compile", "strategy", "workers", "peak_tflops")
"""Options that a resumed run may change: none of them changes what a step computes."""

MASKING = ("mask_ratio", "ratio_per", "loss_weight", "mask_shape", "mean_span", "block_area", "gene_sets")
"""Options of a pretraining that are in the name of its scheme."""
_PLACES = ("data", "msa", "table", "variants", "model", "models", "run", "runs", "start", "out")
"""Options that say where something lies, in run folders that do not note which these are."""
_SELECTIONS = ("baselines", "tasks", "ratios", "schemes", "seeds", "metrics", "validation_ratios", "scheme", "scores")
"""Options of an evaluation that say which records are made, not how."""

NOTED = ("sources", "free", "command", "models", "program")
"""What `facts.json` holds besides the facts that a resumed run must agree with."""


APART = " · "
"""Stands between a scheme's name and the options in which its runs differ."""


@dataclass(frozen=True)
class Setup:
    """One configuration, without seeds, places, and what a table names anyway."""

    options: Mapping[str, str]
    """Option of the pretraining, or `command option` of an evaluation → its value as text."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """Option → what a table shows for it, where that is not the value: a file's name for the digest of its content."""
    seed: int | None = None
    """Of the pretraining, where it is known."""

    def text(self, option: str, *, exact: bool = False) -> str:
        """Return an option and its value as a table shows them; exact: with the value itself."""
        value, shown = self.options[option], self.shown.get(option, "")
        name = option.rpartition(" ")[2]
        return " ".join(
            part for part in (name, shown, value if not shown or (exact and value != shown) else "") if part
        )


@dataclass(frozen=True)
class Setups:
    """The setups of a run folder's records."""

    own: Setup
    """Of records that no other run's model gave."""
    models: Mapping[tuple[str, int], tuple[str, Setup]]
    """(scheme in the records, seed of the pretraining) → its own name, and the setup of model and evaluation."""

    def of(self, scheme: str, seed: int) -> tuple[str, Setup]:
        """Return the name and the setup of a record; an evaluation may have seeds of its own."""
        if (scheme, seed) in self.models:
            return self.models[scheme, seed]
        found = [known for (name, _), known in self.models.items() if name == scheme]
        return found[0] if len(found) == 1 else (scheme, self.own)


def noted_models(identities: Mapping[Path, tuple[str, int]]) -> list[dict[str, Any]]:
    """Return what an evaluation notes of the pretrainings whose models it evaluates.

    Args:
        identities: run folder → (scheme in the records, seed); a model from elsewhere is left out.

    Raises:
        UserError: a folder's files are damaged.
    """
    found = []
    for path, (scheme, seed) in identities.items():
        if not (path / "config.yaml").exists():
            continue
        setup = setup_of_pretraining(path)
        noted = {"scheme": scheme, "seed": seed, "options": dict(setup.options), "shown": dict(setup.shown)}
        found.append({**noted, "name": scheme.partition(APART)[0]})
    return found


def named_apart(identities: Mapping[Path, tuple[str, int]]) -> dict[Path, tuple[str, int]]:
    """Return the identities with other names where runs of one scheme differ in more than the seed.

    Args:
        identities: run folder → (scheme, seed).

    Raises:
        UserError: a folder's files are damaged.
    """
    found = dict(identities)
    for name in {scheme for scheme, _ in identities.values()}:
        same = {path: setup_of_pretraining(path) for path, (scheme, _) in identities.items() if scheme == name}
        for path, text in zip(same, names_apart(name, list(same.values())), strict=True):
            found[path] = (text, identities[path][1])
    return found


def names_apart(name: str, found: Sequence[Setup]) -> list[str]:
    """Return a name for each setup of one scheme: with the options in which they differ, if they do."""
    differing = differences(found)
    names = [with_differences(name, setup, differing) for setup in found]
    values: dict[str, set[tuple[str | None, ...]]] = {}
    for text, setup in zip(names, found, strict=True):
        values.setdefault(text, set()).add(tuple(setup.options.get(option) for option in differing))
    if any(len(several) > 1 for several in values.values()):  # such as two files of one name
        return [with_differences(name, setup, differing, exact=True) for setup in found]
    return names


def setup_of_pretraining(path: Path) -> Setup:
    """Return the setup of a run folder of a pretraining, without what is in the scheme's name.

    Raises:
        UserError: its files are damaged.
    """
    config, facts = read_yaml(path / "config.yaml"), _facts(path)
    own = {key: value for key, value in config.items() if key not in MASKING}
    if isinstance(config.get("mask_ratio"), Mapping):  # marks of a curriculum are not in the name
        own["mask_ratio"] = config["mask_ratio"]
    options, shown = _options(own, facts, "")
    data, names = _data(config, facts)
    return Setup(options | data, shown | names, _seed(config))


def setups(path: Path) -> Setups:
    """Return the setups of what a run folder, or the folder of a `results.json`, holds.

    Raises:
        UserError: its files are damaged.
    """
    if not (path / "config.yaml").exists():
        return Setups(Setup({}), {})
    config, facts = read_yaml(path / "config.yaml"), _facts(path)
    if "mask_ratio" in config and "models" not in facts:
        return Setups(setup_of_pretraining(path), {})
    command = str(facts.get("command", ""))
    kept = {key: value for key, value in config.items() if key not in _SELECTIONS}
    prefix = f"{command or 'evaluation'} "
    own, shown = _options(kept, facts, prefix)
    if "DATA" in facts.get("sources", {}):
        data, names = _data(config, facts)
        own |= {f"{prefix}{name}": value for name, value in data.items()}
        shown |= {f"{prefix}{name}": text for name, text in names.items()}
    if "models" not in facts and (place := config.get("model", config.get("runs"))) is not None:
        own[f"{prefix}model"] = str(
            place
        )  # of an older version, which did not note how it was trained: nothing is pooled
    models = {}
    for noted in facts.get("models", ()):
        together = Setup({**noted["options"], **own}, {**noted["shown"], **shown}, noted["seed"])
        models[noted["scheme"], noted["seed"]] = (noted["name"], together)
    return Setups(Setup(own, shown), models)


def differences(found: Iterable[Setup]) -> list[str]:
    """Return the options in which setups differ.

    One that some of them lack counts too, such as an entry of a dictionary, or an option that an older version had not;
    but not those of a command that a setup has no part in.
    """
    distinct = {tuple(setup.options.items()): setup.options for setup in found}.values()  # records share them
    groups = [{_group(name) for name in options} for options in distinct]
    return [
        name
        for name in dict.fromkeys(name for options in distinct for name in options)
        if len({options.get(name) for options, own in zip(distinct, groups, strict=True) if _group(name) in own}) > 1
    ]


def _group(option: str) -> str:
    """Return the command of an evaluation's option, or "" for the pretraining."""
    return option.partition(" ")[0] if " " in option else ""


def with_differences(name: str, setup: Setup, differing: Iterable[str], *, exact: bool = False) -> str:
    """Return a row's name with the values of these options, as in "r2mae · epochs 20 · data lung.h5ad"."""
    texts = [setup.text(option, exact=exact) for option in differing if option in setup.options]
    return APART.join([name, *texts])


def _options(config: Mapping[str, Any], facts: Mapping[str, Any], prefix: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the options as text, and what a table shows for those that are paths: their names."""
    left_out = {*FREE, *_PLACES, *facts.get("free", ())}
    flat = _flat({key: value for key, value in config.items() if key not in left_out})
    kept = {f"{prefix}{key}": value for key, value in flat.items() if key.rpartition(".")[2] not in _SEEDS}
    names = {key: Path(value).name for key, value in kept.items() if isinstance(value, str) and "/" in value}
    return {key: str(value) for key, value in kept.items()}, names


_SEEDS = ("seed", "seeds")


def _data(config: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what names the data's content, as an option, and its file's name for a table."""
    sources = {key: str(value) for key, value in facts.get("sources", {}).items() if not key.startswith("RUN ")}
    place = config.get("data")
    name = "" if place is None else Path(str(place)).name
    if not sources:
        return ({"data": str(place)}, {"data": name}) if name else ({}, {})
    return {"data": str(digest_of_sources(sources))}, ({"data": name} if name else {})


def digest_of_sources(sources: Mapping[str, str]) -> str | None:
    """Return what names the content of the user's files, wherever they lie; None: there are none."""
    kept = [str(sources[key]) for key in sorted(sources) if not key.startswith("RUN ")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:8] if kept else None


def _seed(config: Mapping[str, Any]) -> int | None:
    seed = config.get("seed")
    return seed if isinstance(seed, int) else None


def _facts(path: Path) -> dict[str, Any]:
    file = path / "facts.json"
    facts = read_json(file) if file.exists() else {}
    if not isinstance(facts.get("models", []), list) or not isinstance(facts.get("sources", {}), Mapping):
        raise UserError(f"{file} is damaged: its models or sources are of another kind")
    return facts


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {
        name: value
        for key, item in config.items()
        for name, value in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }

"""Simulated atlases with known truth: counts of cells from donors with an age and a disease.

Donor-labelled counts are unavailable without a download, so tests and demos of the donor-level evaluation use these.
The logarithm of a cell's expected proportions is a sum of

    gene level + cell-type programme + donor effect + batch effect + age programme · age + disease programme of its type

and counts are negative binomial around it. The donor effect is what makes leakage show: a probe that has seen cells of
a test donor recognises the donor, and with it the age. Age and disease act through programmes that all donors share, so
a probe that has seen other donors only must learn those.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from r2mae_core import UserError, atomic_path, check_output, check_space, default_run_path, one_writer, pasteable, say
from r2mae_singlecell import options
from r2mae_singlecell.data.stores import new_h5, table_bytes, write_adata

Layout = Literal["hlca", "seaad", "seaad-allen"]
LUNG_DISEASES = ("normal", "pulmonary fibrosis", "COVID-19")
ADNC = ("Not AD", "Low", "Intermediate", "High")
AT_ONCE = 50_000, 10**8
"""Cells, and their counts, that are drawn at a time at most; what a seed draws depends on it."""
_PIECE = 2**22  # counts that are computed at a time


@dataclass(frozen=True)
class Simulation:
    """Sizes and strengths of an atlas; strengths are standard deviations of natural logarithms."""

    n_donors: int = 40
    n_cells: int = 20_000
    n_genes: int = 2000
    n_types: int = 8
    n_batches: int = 4
    depth: float = 1500.0
    """Median counts of a cell."""
    type_effect: float = 0.4
    donor_effect: float = 0.2
    batch_effect: float = 0.2
    age_effect: float = 0.12
    """Effect of the age programme for a donor one standard deviation of age above the mean."""
    disease_effect: float = 0.35
    affected_types: float = 0.5
    """Fraction of the cell types that the disease changes."""
    dispersion: float = 2.0
    """Inverse dispersion θ of the counts."""
    unknown: float = 0.05
    """Fraction of cells whose type is not known, and of donors whose age is not."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            UserError: there are too few donors, cells, genes, types or batches.
        """
        least = {"n_donors": 6, "n_cells": self.n_donors, "n_genes": 20, "n_types": 2, "n_batches": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise UserError(f"{name} must be at least {minimum}, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Truth:
    """The programmes that all cells share."""

    level: np.ndarray
    types: np.ndarray
    donors: np.ndarray
    batches: np.ndarray
    age: np.ndarray
    diseases: np.ndarray
    """(diseases, types, genes)."""


def simulate_atlas(config: Simulation, layout: Layout = "hlca") -> Any:
    """Return an atlas as AnnData in the layout of a real one, log-normalised X included.

    Args:
        config: sizes and strengths.
        layout: "hlca" or "seaad" (CELLxGENE: counts in `raw.X`), or "seaad-allen" (counts in `layers["UMIs"]`).

    Raises:
        UserError: the layout is unknown.
    """
    import anndata

    if layout not in ("hlca", "seaad", "seaad-allen"):
        raise UserError(f"unknown layout {layout!r}; known: hlca, seaad, seaad-allen")
    atlas = _Atlas(config, layout)
    counts: Any = sp.vstack(list(atlas.blocks()), format="csr")
    obs, var = atlas.obs(), atlas.var()
    adata = anndata.AnnData(_log_normalised(counts), obs, var)
    if layout == "seaad-allen":
        adata.layers["UMIs"] = counts
    else:
        adata.raw = anndata.AnnData(counts, pd.DataFrame(index=obs.index), var)
    return adata


class _Atlas:
    """What is drawn, in this order: donors, programmes, cells, their counts, and the rest of their table."""

    def __init__(self, config: Simulation, layout: Layout) -> None:
        self.config, self.layout = config, layout
        self.rng = rng = np.random.default_rng([config.seed, 5])
        n_diseases = len(LUNG_DISEASES if layout == "hlca" else ADNC)
        donors = _donors(config, n_diseases, rng)
        self.truth = _programmes(config, n_diseases, rng)
        cells = pd.DataFrame({"donor": np.sort(rng.integers(0, config.n_donors, config.n_cells))})
        mixture = rng.dirichlet(np.full(config.n_types, 3.0), config.n_donors)
        cells["type"] = [rng.choice(config.n_types, p=mixture[d]) for d in cells["donor"]]
        self.cells = cells.join(donors, on="donor")

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """Yield the counts of the next cells, once."""
        step = min(AT_ONCE[0], max(1, AT_ONCE[1] // self.config.n_genes))
        for at in range(0, len(self.cells), step):
            yield _counts(self.config, self.truth, self.cells.iloc[at : at + step], self.rng)

    def obs(self) -> pd.DataFrame:
        """Return the table of cells; draw their counts first."""
        kind = self.layout
        args = self.config, self.cells, self.rng
        obs = _hlca_obs(*args) if kind == "hlca" else _seaad_obs(*args, kind)
        obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
        return obs

    def var(self) -> pd.DataFrame:
        """Return the table of genes."""
        n = self.config.n_genes
        columns = {"feature_name": [f"GENE{g}" for g in range(n)], "age_programme": self.truth.age}
        return pd.DataFrame(columns, index=pd.Index([f"ENSG{g:011d}" for g in range(n)]))


def simulate(config: options.Simulate) -> Path:
    """Write a simulated atlas as h5ad and return its path.

    Raises:
        UserError: there are too few donors, cells, genes or types; the file is there already, or does not fit.
    """
    path = config.out or default_run_path("r2mae-singlecell", "simulate").with_suffix(".h5ad")
    check_output(path, [], overwrite=config.overwrite)
    names = [name for name in Simulation.__dataclass_fields__ if hasattr(config, name)]
    simulation = Simulation(**{name: getattr(config, name) for name in names})
    with (
        one_writer(path, folder=False),
        tempfile.TemporaryDirectory(prefix=".r2mae-simulate-", dir=path.parent) as name,
    ):
        atlas = _Atlas(simulation, config.layout)
        counts = _Spooled(Path(name), path, config.n_genes)
        for block in atlas.blocks():
            counts.add(block)
        obs, var = atlas.obs(), atlas.var()
        n_bytes = 2 * counts.n_bytes + table_bytes(obs) + 2 * table_bytes(var)
        with atomic_path(path) as temporary, new_h5(temporary, n_bytes, path) as file:
            _write(file, counts, obs, var, config.layout)
    return path


class _Spooled:
    """Counts in a scratch file, because how many there are is known after the last."""

    def __init__(self, folder: Path, target: Path, n_genes: int) -> None:
        self.folder, self.target, self.n_genes = folder, target, n_genes
        self.lengths: list[np.ndarray] = []

    @property
    def n_bytes(self) -> int:
        """Bytes as CSR."""
        return sum(8 * int(lengths.sum()) + 8 * len(lengths) for lengths in self.lengths) + 8

    def add(self, block: sp.csr_matrix) -> None:
        """Add cells.

        Raises:
            UserError: there is not enough space.
        """
        check_space(self.folder, 8 * block.nnz, self.target.name)
        self.lengths.append(np.diff(block.indptr))
        with (self.folder / "counts").open("ab") as out:
            for part in (block.indices.astype(np.int32, copy=False), block.data.astype(np.float32, copy=False)):
                out.write(part.tobytes())

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """Yield the cells again."""
        with (self.folder / "counts").open("rb") as file:
            for lengths in self.lengths:
                n = int(lengths.sum())
                indices, data = np.fromfile(file, np.int32, n), np.fromfile(file, np.float32, n)
                indptr = np.concatenate([[0], np.cumsum(lengths)])
                yield sp.csr_matrix((data, indices, indptr), (len(lengths), self.n_genes))


def _write(file: Any, counts: _Spooled, obs: pd.DataFrame, var: pd.DataFrame, layout: Layout) -> None:
    import anndata
    from anndata.io import write_elem

    write_adata(file, anndata.AnnData(obs=obs, var=var))
    if layout == "seaad-allen":
        place = "layers/UMIs"
    else:
        place = "raw/X"
        raw = file.create_group("raw")
        raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        write_elem(raw, "var", var)
        write_elem(raw, "varm", {})
    if "X" in file:
        del file["X"]  # of a table without counts
    lengths = np.concatenate(counts.lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    parts = {}
    for name in ("X", place):
        group = parts[name] = file.create_group(name)
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([len(obs), len(var)])
        short = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64
        group.create_dataset("indptr", data=indptr.astype(short))
        for array, kind in (("indices", np.int32), ("data", np.float32)):
            group.create_dataset(array, (int(indptr[-1]),), kind)
    at = 0
    for block in counts.blocks():
        end = at + block.nnz
        for name, part in (("X", _log_normalised(block)), (place, block)):
            parts[name]["indices"][at:end], parts[name]["data"][at:end] = part.indices, part.data
        at = end


def simulate_command(config: options.Simulate) -> None:
    """Run `r2mae-singlecell simulate`."""
    path = simulate(config)
    say(f"{config.n_cells:,} simulated cells of {config.n_donors} donors, laid out as {config.layout}")
    say(f"Done: {path}. Next: r2mae-singlecell prepare {pasteable(path)}")


def _donors(config: Simulation, n_diseases: int, rng: np.random.Generator) -> pd.DataFrame:
    age = rng.uniform(20, 89, config.n_donors).round()
    return pd.DataFrame(
        {
            "age": age,
            "z": (age - age.mean()) / age.std(),
            "disease": rng.permutation(np.arange(config.n_donors) % n_diseases),
            "batch": rng.permutation(np.arange(config.n_donors) % config.n_batches),
            "depth": np.exp(rng.normal(0, 0.2, config.n_donors)),
        }
    )


def _programmes(config: Simulation, n_diseases: int, rng: np.random.Generator) -> _Truth:
    def sparse(shape: tuple[int, ...], strength: float, share: float) -> np.ndarray:
        return rng.normal(0, strength, shape) * (rng.random(shape) < share)

    affected = rng.permutation(config.n_types) < config.affected_types * config.n_types
    direction = sparse((config.n_types, config.n_genes), config.disease_effect, 0.2) * affected[:, None]
    severity = np.linspace(0, 1.5, n_diseases)
    own = sparse((n_diseases, 1, config.n_genes), config.disease_effect, 0.1) * affected[None, :, None]
    own[0] = 0.0
    return _Truth(
        level=rng.normal(0, 1.5, config.n_genes),
        types=sparse((config.n_types, config.n_genes), config.type_effect, 0.3),
        donors=sparse((config.n_donors, config.n_genes), config.donor_effect, 1.0),
        batches=sparse((config.n_batches, config.n_genes), config.batch_effect, 1.0),
        age=sparse((config.n_genes,), config.age_effect, 0.3),
        diseases=severity[:, None, None] * direction[None] + own,
    )


def _counts(config: Simulation, truth: _Truth, cells: pd.DataFrame, rng: np.random.Generator) -> sp.csr_matrix:
    """Draw counts. All sizes are drawn before all counts; those are computed in pieces, which draw the same."""
    library = config.depth * cells["depth"].to_numpy() * np.exp(rng.normal(0, 0.35, len(cells)))
    gamma = rng.standard_gamma(config.dispersion, (len(cells), config.n_genes), np.float32)
    step, parts = max(1, _PIECE // config.n_genes), []
    for at in range(0, len(cells), step):
        piece = slice(at, at + step)
        mean = _mean(truth, cells.iloc[piece], library[piece])
        counts = rng.poisson(mean * gamma[piece] / config.dispersion)
        parts.append(sp.csr_matrix(counts.astype(np.float32)))
    found: Any = sp.vstack(parts, format="csr")
    return found


def _mean(truth: _Truth, cells: pd.DataFrame, library: np.ndarray) -> np.ndarray:
    donor, kind = cells["donor"].to_numpy(), cells["type"].to_numpy()
    log_rate = (
        truth.level
        + truth.types[kind]
        + truth.donors[donor]
        + truth.batches[cells["batch"].to_numpy()]
        + cells["z"].to_numpy()[:, None] * truth.age
        + truth.diseases[cells["disease"].to_numpy(), kind]
    ).astype(np.float32)
    rate = np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
    return rate / rate.sum(axis=1, keepdims=True) * library[:, None].astype(np.float32)


def _log_normalised(counts: sp.csr_matrix) -> sp.csr_matrix:
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scaled: Any = sp.diags_array((1e4 / np.maximum(totals, 1)).astype(np.float32)) @ counts
    return scaled.log1p().tocsr()


def _named(form: str, codes: Any) -> np.ndarray:
    """Return the names of codes; cells share the text."""
    return np.array([form.format(code) for code in range(int(codes.max()) + 1)], object)[codes]


def _hlca_obs(config: Simulation, cells: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    obs = pd.DataFrame(
        {
            "donor_id": _named("donor{}", cells["donor"]),
            "dataset": _named("study{}", cells["batch"]),
            "ann_finest_level": _named("type {}", cells["type"]),
            "disease": np.array(LUNG_DISEASES, object)[cells["disease"]],
            "age_or_mean_of_age_range": cells["age"].to_numpy(),
        }
    )
    obs.loc[rng.random(len(obs)) < config.unknown, "ann_finest_level"] = "Unknown"
    ageless = rng.random(config.n_donors) < config.unknown
    obs.loc[ageless[cells["donor"].to_numpy()], "age_or_mean_of_age_range"] = np.nan
    return obs


def _seaad_obs(config: Simulation, cells: pd.DataFrame, rng: np.random.Generator, layout: str) -> pd.DataFrame:
    """Two fine types in each subclass; a cell of the second is `-SEAAD` where the pathology is high."""
    kind, stage = cells["type"].to_numpy(), cells["disease"].to_numpy()
    subclass = np.array([f"Subclass{t // 2}" for t in kind])
    supertype = np.array([f"Subclass{t // 2}_{t % 2 + 1}" for t in kind], dtype=object)
    changed = (kind // 2 % 2 == 0) & (kind % 2 == 1) & (stage >= 2)
    supertype[changed] += "-SEAAD"
    reference = cells["donor"].to_numpy() < max(1, config.n_donors // 16)
    adnc = np.where(reference, "Reference", np.array(ADNC)[stage])
    age = cells["age"].to_numpy().astype(int)
    common = {
        "Subclass": subclass,
        "Supertype": supertype,
        "Neurotypical reference": np.where(reference, "True", "False"),
    }
    donor = _named("H20.33.{:03d}", cells["donor"])
    chemistry = np.where(cells["batch"].to_numpy() % 2 == 0, "10x 3' v3", "10x multiome")
    if layout == "seaad-allen":
        broad = np.where(age >= 85, "90+", age.astype(str))
        return pd.DataFrame(
            {
                "Donor ID": donor,
                "Overall AD neuropathological Change": adnc,
                "Age at Death": broad,
                "method": chemistry,
                **common,
            }
        )
    stages = np.where(age >= 85, "80 year-old and over stage", [f"{a}-year-old stage" for a in age])
    return pd.DataFrame({"donor_id": donor, "ADNC": adnc, "development_stage": stages, "assay": chemistry, **common})

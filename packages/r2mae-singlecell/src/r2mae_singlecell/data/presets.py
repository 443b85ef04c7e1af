"""The layouts of the atlases: columns, counts, and the paper's rules on what is left out (C.8)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from r2mae_core import UserError

NO_LABEL = frozenset({"unknown", "none", "nan", "na", "n/a", "<na>", "null", ""})
STANDARD = ("donor", "batch", "cell_type", "disease", "age", "is_reference")
"""Columns of `obs` after `prepare`; those of which the file says nothing are not there, but for `is_reference`."""
FILE = "file"
"""Column of a store of several files that names the file that a cell is from."""
FOUND = {
    "donor": ("donor", "donor_id"),
    "batch": ("batch",),
    "cell_type": ("cell_type",),
    "disease": ("disease",),
    "age": ("age", "development_stage"),
}
"""Columns that are taken for a standard one if a file is of no known layout and none is named: these alone."""


def exact_age(stages: pd.Series) -> pd.Series:
    """Return years where a CELLxGENE development stage names them ("63-year-old stage"), NaN for broad classes."""
    years = stages.astype(str).str.extract(r"^(\d+)-year-old (?:human )?stage$", flags=re.IGNORECASE)[0]
    return pd.Series(pd.to_numeric(years, errors="coerce"))


def numeric_age(ages: pd.Series) -> pd.Series:
    """Return numbers where there are numbers, NaN elsewhere ("90+" and infinity among them)."""
    numbers = pd.Series(pd.to_numeric(ages.astype(str), errors="coerce"))
    return numbers.where(np.isfinite(numbers))


def any_age(ages: pd.Series) -> pd.Series:
    """Return years where a column has numbers or development stages with a year, NaN elsewhere."""
    return numeric_age(ages).fillna(exact_age(ages))


def known_labels(labels: pd.Series) -> pd.Series:
    """Return labels as text, with missing, "Unknown", "None", "NA" and the like as NaN.

    Whole numbers are written alike whatever their type: a column of integers with gaps is read as 1.0, 2.0.
    """
    if labels.dtype.kind == "f" and not (labels.to_numpy(float, na_value=0.0) % 1).any():
        labels = labels.astype("Int64")
    text: Any = labels.astype(object)
    text = text.where(text.isna(), text.astype(str))
    missing = text.isna() | text.astype(str).str.strip().str.lower().isin(NO_LABEL)
    return text.where(~missing, np.nan)


@dataclass(frozen=True)
class AtlasPreset:
    """Layout and rules of one atlas."""

    name: str
    counts: str
    """Path of the raw counts in the file."""
    donor: str | None = None
    batch: str | None = None
    cell_type: str | None = None
    disease: str | None = None
    age: str | None = None
    parse_age: Callable[[pd.Series], pd.Series] = any_age
    reference: str | None = None
    """Column that marks reference donors, whom the evaluation leaves out."""
    group: str | None = None
    """Column of broader cell types; only those with a fine type that ends in `-SEAAD` are classified."""
    min_genes: int = 0
    """Cells with fewer non-zero variable genes are dropped."""

    def columns(self) -> list[str]:
        """Return the columns that the file must have."""
        named = (self.donor, self.batch, self.cell_type, self.disease, self.age, self.reference, self.group)
        return [name for name in named if name is not None]

    def standard_obs(self, obs: Any) -> pd.DataFrame:
        """Return those of the columns `STANDARD` of which the file says something."""
        out = pd.DataFrame(index=obs.index)
        for name in ("donor", "batch", "cell_type", "disease"):
            if (column := getattr(self, name)) is not None:
                out[name] = known_labels(obs[column])
        if self.age is not None:
            out["age"] = self.parse_age(obs[self.age])
        out["is_reference"] = False
        if self.reference is not None:
            out["is_reference"] = obs[self.reference].astype(str).str.strip().str.lower().isin({"true", "yes", "1"})
            if "disease" in out:
                out["is_reference"] |= out["disease"].astype(str).str.lower() == "reference"
        if self.group is not None and self.cell_type is not None:
            specific = obs[self.cell_type].astype(str).str.endswith("-SEAAD")
            wanted = set(obs.loc[specific, self.group].astype(str))
            out.loc[~obs[self.group].astype(str).isin(list(wanted)), "cell_type"] = np.nan
        for name in {"donor", "batch", "cell_type", "disease"} & set(out):
            out[name] = out[name].astype("category")
        return out


PRESETS = {
    preset.name: preset
    for preset in (
        # Human Lung Cell Atlas (full), CELLxGENE dataset 9f222629-9e39-47d0-b83f-e08d610c7479
        AtlasPreset(
            name="hlca",
            counts="raw/X",
            donor="donor_id",
            batch="dataset",  # the atlas's own integration variable; the paper names no column
            cell_type="ann_finest_level",
            disease="disease",
            age="age_or_mean_of_age_range",
            parse_age=numeric_age,
            min_genes=20,
        ),
        # SEA-AD middle temporal gyrus, CELLxGENE collection 1ca90a2d-2943-483d-b678-b809bf464c30
        AtlasPreset(
            name="seaad",
            counts="raw/X",
            donor="donor_id",
            batch="assay",
            cell_type="Supertype",
            disease="ADNC",
            age="development_stage",
            parse_age=exact_age,
            reference="Neurotypical reference",
            group="Subclass",
        ),
        # The same atlas from the Allen Institute (SEAAD_MTG_RNAseq_final-nuclei)
        AtlasPreset(
            name="seaad-allen",
            counts="layers/UMIs",
            donor="Donor ID",
            batch="method",
            cell_type="Supertype",
            disease="Overall AD neuropathological Change",
            age="Age at Death",
            parse_age=numeric_age,
            reference="Neurotypical reference",
            group="Subclass",
        ),
    )
}


def layout_of(obs_columns: set[str], preset: str, named: Mapping[str, str | None], where: str) -> AtlasPreset:
    """Return the layout of a file.

    Args:
        obs_columns: the file's columns of cells.
        preset: name of a preset; "auto": the one whose columns are all there, else what `FOUND` names; "none": only
            what is named.
        named: `counts` and standard columns → what the user named for them, or None.
        where: how messages call the file.

    Raises:
        UserError: the preset is unknown or several fit, or a column is not there or cannot be told from another.
    """
    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if preset == "auto":
        fitting = [p for p in PRESETS.values() if set(p.columns()) <= obs_columns]
        if len(fitting) > 1:
            names = ", ".join(p.name for p in fitting)
            raise UserError(f"{where} fits several layouts ({names}); choose one with --preset")
        layout = fitting[0] if fitting else _found(obs_columns, given, where)
    elif preset == "none":
        layout = AtlasPreset(name="none", counts="X")
    elif preset in PRESETS:
        layout = PRESETS[preset]
    else:
        raise UserError(f"unknown preset {preset!r}; known: auto, none, {', '.join(PRESETS)}")
    if "age" in given and given["age"] != layout.age:
        given["parse_age"] = any_age
    layout = replace(layout, **given)
    if missing := sorted(set(layout.columns()) - obs_columns):
        known = ", ".join(sorted(obs_columns)[:30]) or "none"
        raise UserError(f"{where}: obs has no column {missing[0]!r} ({layout.name}); columns: {known}")
    return layout


def _found(obs_columns: set[str], given: Mapping[str, str], where: str) -> AtlasPreset:
    found = {}
    for standard, names in FOUND.items():
        there = [name for name in names if name in obs_columns]
        if len(there) > 1 and standard not in given:
            raise UserError(
                f"{where} has the columns {' and '.join(map(repr, there))}; name one with --{standard}_column, or give "
                "--preset none to use only what you name"
            )
        if there:
            found[standard] = there[0]
    return AtlasPreset(name="none", counts="X", **found)

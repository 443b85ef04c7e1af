"""The layouts of the atlases: columns, counts, and the paper's rules on what is left out (C.8)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from r2mae_core import UserError

NO_LABEL = frozenset({"unknown", "none", "nan", "na", ""})
STANDARD = ("donor", "batch", "cell_type", "disease", "age", "is_reference")
"""Columns of `obs` after `prepare`."""


def exact_age(stages: pd.Series) -> pd.Series:
    """Return years where a CELLxGENE development stage names them ("63-year-old stage"), NaN for broad classes."""
    years = stages.astype(str).str.extract(r"^(\d+)-year-old (?:human )?stage$", flags=re.IGNORECASE)[0]
    return pd.Series(pd.to_numeric(years, errors="coerce"))


def numeric_age(ages: pd.Series) -> pd.Series:
    """Return numbers where there are numbers, NaN elsewhere ("90+" and infinity among them)."""
    numbers = pd.Series(pd.to_numeric(ages.astype(str), errors="coerce"))
    return numbers.where(np.isfinite(numbers))


def known_labels(labels: pd.Series) -> pd.Series:
    """Return labels as text, with missing, "Unknown" and "None" as NaN."""
    text: Any = labels.astype(object)
    return text.where(~labels.astype(str).str.strip().str.lower().isin(NO_LABEL), np.nan)


@dataclass(frozen=True)
class AtlasPreset:
    """Layout and rules of one atlas."""

    name: str
    counts: str
    """Path of the raw counts in the file."""
    donor: str
    batch: str
    cell_type: str
    disease: str
    age: str
    parse_age: Callable[[pd.Series], pd.Series]
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
        """Return the columns `STANDARD` and, where there are fine types of disease, `cell_type_kept`."""
        out = pd.DataFrame(index=obs.index)
        out["donor"] = obs[self.donor].astype(str)
        out["batch"] = obs[self.batch].astype(str)
        out["cell_type"] = known_labels(obs[self.cell_type])
        out["disease"] = known_labels(obs[self.disease])
        out["age"] = self.parse_age(obs[self.age])
        out["is_reference"] = False
        if self.reference is not None:
            out["is_reference"] = obs[self.reference].astype(str).str.strip().str.lower().isin({"true", "yes", "1"})
            out["is_reference"] |= out["disease"].astype(str).str.lower() == "reference"
        if self.group is not None:
            specific = obs[self.cell_type].astype(str).str.endswith("-SEAAD")
            wanted = set(obs.loc[specific, self.group].astype(str))
            out.loc[~obs[self.group].astype(str).isin(list(wanted)), "cell_type"] = np.nan
        for name in ("donor", "batch", "cell_type", "disease"):
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


def detect(columns: set[str]) -> AtlasPreset:
    """Return the preset whose columns are all there.

    Raises:
        UserError: no preset fits, or several do.
    """
    fitting = [preset for preset in PRESETS.values() if set(preset.columns()) <= columns]
    if len(fitting) == 1:
        return fitting[0]
    lacks = "; ".join(f"{p.name} lacks {sorted(set(p.columns()) - columns)}" for p in PRESETS.values())
    raise UserError(
        f"the file fits no known atlas ({lacks}); give the columns yourself (--donor, --batch, --cell_type, …)"
        if not fitting
        else f"the file fits several layouts ({', '.join(p.name for p in fitting)}); choose one with --preset"
    )

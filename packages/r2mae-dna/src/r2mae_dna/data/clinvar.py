"""ClinVar's own VCF: labels from CLNSIG, the review status as stars, and molecular consequences."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2mae_core import UserError
from r2mae_dna.data.vcf import VcfFile, info_values, read_vcf_frame
from r2mae_dna.data.within import Within

STARS: dict[str, int] = {
    "practice_guideline": 4,
    "reviewed_by_expert_panel": 3,
    "criteria_provided,_multiple_submitters,_no_conflicts": 2,
    "criteria_provided,_multiple_submitters": 1,
    "criteria_provided,_conflicting_classifications": 1,
    "criteria_provided,_conflicting_interpretations": 1,
    "criteria_provided,_single_submitter": 1,
    "no_assertion_criteria_provided": 0,
    "no_assertion_provided": 0,
    "no_classification_provided": 0,
    "no_classification_for_the_single_variant": 0,
    "no_classifications_from_unflagged_records": 0,
    "no_interpretation_for_the_single_variant": 0,
}
"""CLNREVSTAT → gold stars, as ClinVar's documentation lists them (ncbi.nlm.nih.gov/clinvar/docs/review_status)."""
CERTAIN = {"Pathogenic": True, "Benign": False}
LIKELY = {
    "Likely_pathogenic": True, "Pathogenic/Likely_pathogenic": True,
    "Likely_benign": False, "Benign/Likely_benign": False,
}  # fmt: skip
_BASES = {"A", "C", "G", "T"}


def read_clinvar(
    path: Path,
    scores: Sequence[str],
    *,
    stars: int,
    likely: bool,
    consequence: str | None,
    within: Within | None = None,
) -> tuple[Any, dict[str, int]]:
    """Read the single-nucleotide variants of a ClinVar VCF that have a label.

    Args:
        path: ClinVar's VCF, with scores in its INFO.
        scores: INFO fields that are read as numbers.
        stars: least review status, from 0 to 4.
        likely: count Likely_pathogenic and Likely_benign (alone or with the certain one) as labels.
        consequence: Sequence Ontology term that MC must name, such as missense_variant; None: any.
        within: regions to which the file is restricted.

    Returns:
        a polars frame with chrom, pos, ref, alt, the scores, label (bool) and consequence (the terms of MC); and
        reason → rows left out: each row counts for the first reason that holds.

    Raises:
        UserError: the header lacks CLNSIG or CLNREVSTAT, or a record is damaged.
    """
    import polars as pl

    file = VcfFile(path, within)
    ids = {line.split("ID=", 1)[1].split(",")[0] for line in file.meta if line.startswith("##INFO=<ID=")}
    if missing := [name for name in ("CLNSIG", "CLNREVSTAT") if name not in ids]:
        raise UserError(f"{path} is not ClinVar's VCF: its header has no INFO field {missing[0]}")
    if consequence is not None and "MC" not in ids:
        raise UserError(f"{path}: --molecular_consequence needs the INFO field MC, which its header lacks")
    frame = read_vcf_frame(path, scores, within)
    known = {**CERTAIN, **(LIKELY if likely else {})}
    labels, terms, skipped = list[bool | None](), list[str | None](), Counter[str]()
    for fields in file.records():
        info = info_values(fields)
        found = [item.partition("|")[2] or item for item in info.get("MC", "").split(",") if item not in ("", ".")]
        for alternative in fields[4].split(","):
            reason = _reason(info, fields[3], alternative, found, known, stars, consequence)
            if reason is not None:
                skipped[reason] += 1
            labels.append(None if reason is not None else known[info["CLNSIG"]])
            terms.append("&".join(sorted(found)) or None)
    frame = frame.with_columns(
        pl.Series("label", labels, dtype=pl.Boolean), pl.Series("consequence", terms, dtype=pl.String)
    )
    return frame.filter(pl.col("label").is_not_null()), dict(skipped.most_common())


def _reason(
    info: dict[str, str],
    reference: str,
    alternative: str,
    terms: Sequence[str],
    known: dict[str, bool],
    stars: int,
    consequence: str | None,
) -> str | None:
    """Return why an allele is left out; None if it is not."""
    if {reference.upper(), alternative.upper()} - _BASES:
        return "not a single-nucleotide variant"
    if (significance := info.get("CLNSIG", "")) not in known:
        return f"CLNSIG {significance or 'missing'}"
    status = info.get("CLNREVSTAT", "")
    if status not in STARS:
        return f"unknown CLNREVSTAT {status or 'missing'}"
    if STARS[status] < stars:
        return f"fewer than {stars} stars"
    return None if consequence is None or consequence in terms else f"not {consequence}"

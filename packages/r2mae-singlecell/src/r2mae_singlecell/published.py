"""Tables 4, 6, 7 and 8 of the paper as data (section 4.2, C.8).

The text has no captions. That table 4 is SEA-AD and table 6 HLCA follows from their columns; that table 7 is SEA-AD and
table 8 HLCA is inferred: CL-MAE (k=0), which the paper trained on one atlas only, is in tables 6 and 8.
"""

ROWS = {
    "log-norm": "Normalized exp.",
    "obsm:X_scgpt": "scGPT",
    "obsm:X_scgpt_lung": "scGPT (Lung)",
    "obsm:X_scgpt_all": "scGPT (All)",
    "obsm:X_scgpt_cp": "scGPT (CP)",
    "obsm:X_uce_4l": "UCE (4L)",
    "obsm:X_uce_33l": "UCE (33L)",
    "scvi": "scVI",
    "fixed": "MAE (MR 25%)",
    "low": "– MR 10%",
    "high": "– MR 50%",
    "mdlm": "MDLM",
    "dynamic": "Dynamic MR",
    "cl": "CL-MAE",
    "cl-k0": "CL-MAE (k=0)",
    "r2mae": "R2MAE",
    "r2mae+dynamic": "+ Dynamic MR",
    "r2mae+cl": "+ CL",
    "r2mae+cl-k0": "+ CL (k=0)",
}
"""Our name → the paper's row. Those of scGPT and UCE are embeddings that the user brings, by their key in `obsm`."""

_CLASSES = (("cell_type", "balanced_accuracy"), ("cell_type", "macro_f1"))
_AGE = (("age", "spearman_cell"), ("age", "spearman_donor"))
_PEARSON = tuple(f"pearson@{ratio:g}" for ratio in (0.1, 0.2, 0.3, 0.5, 0.7))
ATLAS = {"table4": "seaad", "table6": "hlca", "table7": "seaad", "table8": "hlca"}
PROBES = ("table4", "table6")
COLUMNS = {
    "table4": (*_CLASSES, ("disease", "auroc_cell"), ("disease", "auroc_donor"), *_AGE),
    "table6": (*_CLASSES, ("disease", "balanced_accuracy"), ("disease", "macro_f1"), *_AGE),
    "table7": tuple(("seaad", metric) for metric in _PEARSON),
    "table8": tuple(("hlca", metric) for metric in _PEARSON),
}
"""(task, metric) of each column."""

PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "table4": {
        "log-norm": (0.798, 0.738, 0.571, 0.611, 0.129, 0.511),
        "obsm:X_scgpt": (0.784, 0.693, 0.549, 0.556, 0.065, 0.272),
        "scvi": (0.826, 0.740, 0.631, 0.731, 0.201, 0.502),
        "fixed": (0.841, 0.737, 0.667, 0.699, 0.483, 0.575),
        "low": (0.837, 0.726, 0.543, 0.536, 0.449, 0.399),
        "high": (0.839, 0.738, 0.574, 0.591, 0.516, 0.536),
        "mdlm": (0.831, 0.719, 0.667, 0.686, 0.543, 0.622),
        "dynamic": (0.838, 0.735, 0.662, 0.694, 0.444, 0.446),
        "cl": (0.838, 0.729, 0.687, 0.722, 0.462, 0.484),
        "r2mae": (0.840, 0.737, 0.687, 0.716, 0.572, 0.628),
        "r2mae+dynamic": (0.834, 0.735, 0.642, 0.682, 0.551, 0.545),
        "r2mae+cl": (0.836, 0.730, 0.684, 0.719, 0.570, 0.559),
        "r2mae+cl-k0": (0.837, 0.734, 0.676, 0.707, 0.511, 0.506),
    },
    "table6": {
        "log-norm": (0.834, 0.774, 0.675, 0.489, 0.470, 0.574),
        "obsm:X_scgpt_lung": (0.813, 0.717, 0.624, 0.401, 0.429, 0.523),
        "obsm:X_scgpt_all": (0.834, 0.711, 0.629, 0.403, 0.438, 0.500),
        "obsm:X_scgpt_cp": (0.816, 0.696, 0.613, 0.389, 0.431, 0.521),
        "obsm:X_uce_4l": (0.808, 0.702, 0.631, 0.417, 0.436, 0.518),
        "obsm:X_uce_33l": (0.800, 0.699, 0.619, 0.419, 0.447, 0.540),
        "scvi": (0.897, 0.804, 0.767, 0.626, 0.556, 0.618),
        "fixed": (0.908, 0.830, 0.834, 0.604, 0.586, 0.623),
        "low": (0.915, 0.802, 0.851, 0.635, 0.582, 0.609),
        "high": (0.909, 0.833, 0.837, 0.604, 0.587, 0.601),
        "mdlm": (0.903, 0.806, 0.829, 0.560, 0.577, 0.622),
        "dynamic": (0.919, 0.829, 0.850, 0.651, 0.571, 0.597),
        "cl": (0.907, 0.825, 0.843, 0.635, 0.589, 0.648),
        "cl-k0": (0.801, 0.667, 0.773, 0.493, 0.530, 0.563),
        "r2mae": (0.915, 0.812, 0.853, 0.651, 0.595, 0.641),
        "r2mae+dynamic": (0.914, 0.842, 0.835, 0.597, 0.616, 0.658),
        "r2mae+cl": (0.911, 0.817, 0.837, 0.618, 0.572, 0.619),
        "r2mae+cl-k0": (0.911, 0.805, 0.840, 0.630, 0.590, 0.646),
    },
    "table7": {
        "scvi": (0.834, 0.834, 0.829, 0.815, 0.781),
        "fixed": (0.843, 0.847, 0.846, 0.840, 0.819),
        "low": (0.842, 0.844, 0.841, 0.832, 0.797),
        "high": (0.841, 0.845, 0.843, 0.842, 0.830),
        "mdlm": (0.840, 0.844, 0.842, 0.840, 0.827),
        "dynamic": (0.842, 0.845, 0.842, 0.834, 0.800),
        "cl": (0.841, 0.844, 0.845, 0.838, 0.817),
        "r2mae": (0.846, 0.847, 0.845, 0.842, 0.826),
        "r2mae+dynamic": (0.844, 0.847, 0.846, 0.841, 0.824),
        "r2mae+cl": (0.836, 0.839, 0.839, 0.836, 0.825),
        "r2mae+cl-k0": (0.844, 0.846, 0.845, 0.840, 0.823),
    },
    "table8": {
        "scvi": (0.712, 0.744, 0.746, 0.733, 0.698),
        "fixed": (0.743, 0.774, 0.780, 0.777, 0.747),
        "low": (0.733, 0.770, 0.777, 0.769, 0.733),
        "high": (0.744, 0.770, 0.779, 0.781, 0.760),
        "mdlm": (0.729, 0.760, 0.766, 0.764, 0.739),
        "dynamic": (0.742, 0.772, 0.777, 0.772, 0.737),
        "cl": (0.736, 0.768, 0.776, 0.776, 0.756),
        "cl-k0": (0.174, 0.131, 0.109, 0.090, 0.086),
        "r2mae": (0.746, 0.773, 0.782, 0.778, 0.752),
        "r2mae+dynamic": (0.743, 0.774, 0.781, 0.779, 0.753),
        "r2mae+cl": (0.731, 0.763, 0.772, 0.770, 0.746),
        "r2mae+cl-k0": (0.733, 0.767, 0.777, 0.770, 0.742),
    },
}
"""The paper's figures, in the order of `COLUMNS`."""


def published(target: str, row: str, task: str, metric: str) -> float | None:
    """Return what the paper prints for a cell, or None."""
    values = PUBLISHED[target].get(row)
    return values[COLUMNS[target].index((task, metric))] if values and (task, metric) in COLUMNS[target] else None

"""scvi-hub: a folder that `scvi.hub.HubModel` reads, with a card of our own and the export without pickle in it."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from r2mae_core import CardFacts, UserError, model_card, whole_folder, write_text

UNNAMED = "OWNER/NAME"
"""What a card's code loads where the model has no name on the hub yet."""
EXPORT = "r2mae_export"
"""Folder with `model.safetensors` and `model.json`, which `R2MAE.from_export` reads without pickle."""
_OURS = """\
from r2mae_singlecell import R2MAE

model = R2MAE.from_pretrained("{name}")  # adata=… for data that are set up like the training's
"""
_SCVI = """\
from scvi.hub import HubModel

model = HubModel.pull_from_huggingface_hub("{name}")  # then .load_model(adata=…)
"""


def write_hub_model(
    model: Any,
    folder: Path | str,
    *,
    license: str,
    title: str = "R2MAE",
    description: str = "",
    save_anndata: bool = False,
) -> Any:
    """Write a model as scvi-hub keeps it, and return its `scvi.hub.HubModel`. No network is used.

    `HubModel.load_model(adata)` reads it back, and so it does without data if they were saved with it. For a run folder
    `r2mae-singlecell push` writes more into the card.

    Args:
        model: a trained `R2MAE` with its data.
        folder: where; a new folder.
        license: of the model, such as "cc-by-4.0".
        title: of the card.
        description: what a reader must know of the training data.
        save_anndata: write the data too.

    Raises:
        UserError: the folder is there already, the model cannot be exported, or a package is missing.
    """
    hub, folder = scvi_hub(), Path(folder)
    if folder.exists():
        raise UserError(f"{folder} already exists; name another folder")
    with whole_folder(folder) as new:
        write_files(model, new, save_anndata=save_anndata)
        card = model_card(card_facts(model), UNNAMED, title=title, license=license, note=description or None)
        write_text(new / "README.md", card)
    return hub.HubModel(str(folder))


def write_files(model: Any, folder: Path, *, save_anndata: bool = False) -> None:
    """Write what scvi-hub asks for into a folder, without the card: the model, its description, and our export.

    Raises:
        UserError: the model cannot be exported, or a package is missing.
    """
    hub = scvi_hub()
    metadata = hub.HubMetadata(*_versions(), type(model).__name__, model_parent_module="r2mae_singlecell")
    model.save(folder, overwrite=True, save_anndata=save_anndata)
    model.export(folder / EXPORT)
    metadata.save(str(folder / "_scvi_required_metadata.json"))


def card_facts(model: Any) -> CardFacts:
    """Return what a card says of a model."""
    numbers, setup = model.summary_stats, model.registry["setup_args"]
    return CardFacts(
        what="A masked autoencoder of gene expression (R2MAE), for embedding cells and predicting hidden genes.",
        library="scvi-tools",
        code={"r2mae-singlecell, without a pickle": _OURS, "scvi-tools (which imports r2mae-singlecell)": _SCVI},
        tags=(
            "biology",
            "genomics",
            "single-cell",
            f"model_cls_name:{type(model).__name__}",
            *(f"{name}:{text}" for name, text in zip(("scvi_version", "anndata_version"), _versions(), strict=True)),
        ),
        # A model does not keep whether a step, a micro-batch or a cell had a ratio of its own.
        scheme=model.mask_ratio.describe().replace(", drawn at every step", ""),
        details={
            "genes": f"{numbers.n_vars:,}",
            "cells of its data, with those held out": f"{numbers.n_cells:,}",
            "batches": f"{numbers.n_batch:,}",
            "latent": f"{model.module.n_latent}",
            "setup": ", ".join(f"{name}={value!r}" for name, value in setup.items() if value),
        },
        limits=(
            "It reads raw counts of the genes that it was trained on, found by name or Ensembl id; other genes are "
            "left out, and missing ones are named.",
            "Its files hold the names of those genes and of the batches and other categories of the training cells.",
            "model.pt is scvi-tools' pickle; r2mae_export/ holds the same weights without one.",
        ),
    )


def scvi_hub() -> Any:
    """Return the module `scvi.hub`.

    Raises:
        UserError: a package that it needs is missing.
    """
    try:
        import scvi.hub
    except ImportError as error:
        raise UserError(f"{error.name} is missing; pip install 'r2mae-singlecell[hub]'") from None
    return scvi.hub


def _versions() -> tuple[str, str]:
    """Return scvi-tools' and anndata's."""
    return version("scvi-tools"), version("anndata")

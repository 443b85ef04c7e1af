"""scvi-hub: a folder that `scvi.hub.HubModel` reads, with a card of our own and the export without pickle in it."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from r2mae_core import UserError, whole_folder

EXPORT = "r2mae_export"
"""Folder with `model.safetensors` and `model.json`, which `R2MAE.from_export` reads without pickle."""
_CARD = """\
# {title}

A masked autoencoder of gene expression (R2MAE), trained with {mask_ratio}.

{description}

| | |
|---|---|
| genes | {n_genes:,} |
| cells that it was trained on | {n_cells:,} |
| batches | {n_batches:,} |
| latent | {n_latent} |
| setup | `{setup}` |

```python
import scvi
from r2mae_singlecell import R2MAE

model = scvi.hub.HubModel("FOLDER").load_model(adata)  # the pickle of scvi-tools
model = R2MAE.from_export("FOLDER/{export}")  # the same weights, without a pickle
```

`r2mae-singlecell embed FOLDER/{export} NEW.h5ad` embeds cells of any file: genes are found by name or Ensembl id.
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

    `HubModel.load_model(adata)` reads it back, and so it does without data if they were saved with it.
    `push_to_huggingface_hub` and `pull_from_huggingface_hub` of what is returned need the network, and were not tried.

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
    try:
        from huggingface_hub import ModelCard, ModelCardData
        from scvi.hub import HubMetadata, HubModel
    except ImportError as error:
        raise UserError(f"{error.name} is missing; pip install 'r2mae-singlecell[hub]'") from None
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} already exists; name another folder")
    versions = version("scvi-tools"), version("anndata")
    tags = ["biology", "genomics", "single-cell", f"model_cls_name:{type(model).__name__}"]
    tags += [f"scvi_version:{versions[0]}", f"anndata_version:{versions[1]}"]
    header = ModelCardData(license=license, library_name="scvi-tools", tags=tags)
    text = _CARD.format(
        title=title,
        description=description,
        mask_ratio=model.mask_ratio.describe(),
        n_genes=model.summary_stats.n_vars,
        n_cells=model.summary_stats.n_cells,
        n_batches=model.summary_stats.n_batch,
        n_latent=model.module.n_latent,
        setup={name: value for name, value in model.registry["setup_args"].items() if value},
        export=EXPORT,
    )
    with whole_folder(folder) as new:
        model.save(new, overwrite=True, save_anndata=save_anndata)
        model.export(new / EXPORT)
        metadata = HubMetadata(*versions, type(model).__name__, model_parent_module="r2mae_singlecell")
        HubModel(str(new), metadata=metadata, model_card=ModelCard(f"---\n{header}\n---\n\n{text}")).save()
    return HubModel(str(folder))

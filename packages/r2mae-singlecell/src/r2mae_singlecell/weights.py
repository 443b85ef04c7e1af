"""Saving without pickle: `model.safetensors` and `model.json`, with their checksums."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from r2mae_core import (
    UserError,
    check_checksums,
    load_tensors,
    read_json,
    reading,
    save_tensors,
    whole_folder,
    write_checksums,
    write_json,
)
from r2mae_singlecell.checks import check_genes, naming_unknown_categories
from r2mae_singlecell.frozen import freeze_again
from r2mae_singlecell.genes import kept_gene_columns

FORMAT = 1
_KIND = "a model that export wrote"


@dataclass(frozen=True)
class Description:
    """What `model.json` holds."""

    arguments: dict[str, Any]
    """Of the model's class."""
    genes: list[str]
    gene_columns: dict[str, list[str]]
    """Further columns that name the genes, such as their Ensembl ids; older exports have none."""
    missing_genes: np.ndarray | None
    query_options: dict[str, bool] | None
    """What is frozen in a mapped query; None: the model is no query."""
    registry: dict[str, Any]
    """scvi-tools' description of the data."""

    batches: list[str] | None
    """Batches of the training data; None: it had no column of them."""


def read_description(folder: Path) -> Description:
    """Read the `model.json` of an exported model.

    Raises:
        UserError: it is missing, damaged, or not what `export` writes.
    """
    file = folder / "model.json"
    if not file.is_file():
        raise UserError(f"no exported model in {folder}: {file.name} is missing")
    content = read_json(file)
    if (version := content.get("format")) != FORMAT:
        raise UserError(f"{file} has the format {version!r}; this version reads format {FORMAT}")
    with reading(file, _KIND):
        missing, restored = content["missing_genes"], _restored(content)
        genes, registry, arguments = content["genes"], restored["registry"], restored["arguments"]
        if not all(isinstance(name, str) for name in genes) or not isinstance(arguments, dict):
            raise TypeError("its genes or its arguments are of another type")
        positions = None if missing is None else np.array(missing, dtype=np.int64)
        batches = None
        if registry["setup_args"].get("batch_key"):
            field = registry["field_registries"][REGISTRY_KEYS.BATCH_KEY]
            batches = list(map(str, field["state_registry"]["categorical_mapping"]))
        query = content.get("query")
        if query is not None and not all(isinstance(value, bool) for value in query.values()):
            raise TypeError("what is frozen is of another type")
        columns = content.get("gene_columns", {})
        if any(len(column) != len(genes) for column in columns.values()):
            raise ValueError("it has not a name for each gene")
        return Description(arguments, list(genes), columns, positions, query, registry, batches)


class ExportMixin(BaseModelClass):
    """Methods of `R2MAE` that write and read models without pickle."""

    module: Any
    init_params_: Any
    missing_genes_: Any
    is_query_: Any
    query_options_: Any
    gene_columns_: Any

    def export(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write `model.safetensors` (weights), `model.json` (arguments, genes, registry) and their checksums.

        Args:
            folder: where; a new or an empty folder.
            overwrite: replace an exported model that is there.

        Returns:
            The folder.

        Raises:
            UserError: the mask-ratio sampler cannot be written as plain data, the folder holds something else, or the
                disk is full: then an older model is as it was.
        """
        folder = Path(folder)
        _check_folder(folder, overwrite=overwrite)
        arguments, registry = self.init_params_["non_kwargs"], self._registry_to_keep()
        arguments = {key: value for key, value in arguments.items() if key not in ("registry", "datamodule")}
        description = {
            "format": FORMAT,
            "class": type(self).__name__,
            "arguments": arguments,
            "genes": list(map(str, self.get_var_names())),
            "missing_genes": None if self.missing_genes_ is None else self.missing_genes_.tolist(),
            "gene_columns": kept_gene_columns(self),
            "query": (self.query_options_ or {}) if self.is_query_ else None,
            "registry": registry,
        }
        try:
            description = _plain(description)
        except TypeError as error:
            raise UserError(f"this model cannot be exported: {error}; save() can write it") from None
        with whole_folder(folder) as temporary:
            save_tensors(self.module.state_dict(), temporary / "model.safetensors")
            write_json(temporary / "model.json", description)
            write_checksums(temporary)
        return folder

    def _registry_to_keep(self) -> dict[str, Any]:
        """Return the registry without the number that is drawn for each: the same training gives the same file."""
        registry: Any = self.registry_
        return {key: value for key, value in registry.items() if key != "_scvi_uuid"}

    @classmethod
    def from_export(cls, folder: Path | str, adata: Any = None, device: str = "cpu") -> Any:
        """Read what `export` wrote; nothing in it is run or imported.

        Args:
            folder: holds `model.safetensors` and `model.json`.
            adata: data to use the model with; None: give it to each method.
            device: the network's device.

        Raises:
            UserError: a file is missing or damaged, or the genes or categories of `adata` are not the model's.
        """
        folder = Path(folder)
        described = read_description(folder)
        check_checksums(folder)
        tensors = load_tensors(folder / "model.safetensors")
        broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
        if broken:
            raise UserError(f"{folder / 'model.safetensors'} is damaged: {broken[0]} holds NaN or infinite values")
        registry = described.registry
        if adata is not None:
            check_genes(adata, described.genes)
            with naming_unknown_categories():
                cls.setup_anndata(adata, source_registry=registry, **registry["setup_args"])
        with reading(folder / "model.json", _KIND):
            model = cls(adata, registry=None if adata is not None else registry, **described.arguments)
        with reading(folder / "model.safetensors", f"the weights of {folder / 'model.json'}"):
            model.module.load_state_dict(tensors)
        model.missing_genes_, model.query_options_ = described.missing_genes, described.query_options
        model.is_query_ = described.query_options is not None
        freeze_again(model)
        model.gene_columns_ = described.gene_columns
        model.is_trained_ = True
        model.to_device(device)
        model.module.eval()
        return model


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything but an exported model, and that too unless it shall be replaced.

    Raises:
        UserError: with the way out.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the model")
    names = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if not names:
        return
    if not names <= {"model.json", "model.safetensors", "SHA256SUMS"}:
        raise UserError(f"{folder} holds files that are not of an exported model; name another folder")
    if not overwrite:
        raise UserError(f"{folder} holds a model already; name another folder, or give overwrite=True")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; arrays keep their type.

    Raises:
        TypeError: it cannot.
    """
    if isinstance(value, np.ndarray):
        kind = "object" if value.dtype == object else value.dtype.str
        return {"__array__": [_plain(item) for item in value.tolist()], "dtype": kind}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {str(key): _plain(item) for key, item in dict(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")


def _restored(item: Any) -> Any:
    if isinstance(item, dict):
        if "__array__" in item:
            return np.array(item["__array__"], dtype=item["dtype"])
        return {key: _restored(value) for key, value in item.items()}
    return [_restored(value) for value in item] if isinstance(item, list) else item

"""Saving without pickle: `model.safetensors` and `model.json`."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from scvi.model.base import BaseModelClass

from r2mae_core import UserError, atomic_path, write_text

logger = logging.getLogger(__name__)
FORMAT = 1


class ExportMixin(BaseModelClass):
    """Methods of `R2MAE` that write and read models."""

    module: Any
    init_params_: Any
    missing_genes_: Any

    @classmethod
    def load(cls, dir_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load what `save` wrote. It is a pickle, as for every scvi-tools model: load only files that you trust.

        The arguments are those of scvi-tools. `from_export` reads models that hold nothing but numbers and text.

        Raises:
            UserError: the file is damaged.
        """
        logger.warning("%s/model.pt is a pickle, which can run code: load only what you trust.", dir_path)
        try:
            return super().load(dir_path, *args, **kwargs)
        except (EOFError, RuntimeError) as error:
            if "zip archive" not in str(error) and "PytorchStreamReader" not in str(error):
                raise
            raise UserError(f"the saved model in {dir_path} is damaged: {error}") from None

    def export(self, folder: Path | str) -> Path:
        """Write `model.safetensors` (weights) and `model.json` (arguments, genes, registry), and return the folder.

        Raises:
            UserError: the mask-ratio sampler cannot be written as plain data.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        arguments = self.init_params_["non_kwargs"]
        arguments = {key: value for key, value in arguments.items() if key not in ("registry", "datamodule")}
        description = {
            "format": FORMAT,
            "class": type(self).__name__,
            "arguments": arguments,
            "genes": list(map(str, self.get_var_names())),
            "missing_genes": None if self.missing_genes_ is None else self.missing_genes_.tolist(),
            "registry": self.registry_,
        }
        try:
            text = json.dumps(description, default=_plain, indent=1)
        except TypeError as error:
            raise UserError(f"this model cannot be exported: {error}; save() can write it") from None
        tensors = {name: value.contiguous().cpu() for name, value in self.module.state_dict().items()}
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)
        write_text(folder / "model.json", text + "\n")
        return folder

    @classmethod
    def from_export(cls, folder: Path | str, adata: Any = None, device: str = "cpu") -> Any:
        """Read what `export` wrote.

        Args:
            folder: holds `model.safetensors` and `model.json`.
            adata: data to use the model with; None: give it to each method.
            device: the network's device.

        Raises:
            UserError: a file is missing or damaged, or the genes of `adata` are not the model's.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from r2mae_singlecell.checks import check_genes

        folder = Path(folder)
        try:
            described = json.loads((folder / "model.json").read_text(encoding="utf-8"), object_hook=_restored)
            tensors = load_file(folder / "model.safetensors")
            registry, arguments = described["registry"], described["arguments"]
        except FileNotFoundError as error:
            raise UserError(f"no exported model in {folder}: {Path(error.filename).name} is missing") from None
        except (ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"the exported model in {folder} is damaged: {error}") from None
        if adata is not None:
            check_genes(adata, described["genes"])
            cls.setup_anndata(adata, source_registry=registry, **registry["setup_args"])
        model = cls(adata, registry=None if adata is not None else registry, **arguments)
        model.module.load_state_dict(tensors)
        model.missing_genes_ = None if described["missing_genes"] is None else np.array(described["missing_genes"])
        model.is_trained_ = True
        model.to_device(device)
        model.module.eval()
        return model


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"__array__": value.tolist(), "dtype": "object" if value.dtype == object else value.dtype.str}
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "to_dict"):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def _restored(item: dict[str, Any]) -> Any:
    return np.array(item["__array__"], dtype=item["dtype"]) if "__array__" in item else item

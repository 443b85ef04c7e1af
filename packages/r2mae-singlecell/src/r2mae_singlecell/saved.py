"""What scvi-tools' `save` writes: a pickle, which is loaded only if it names nothing that could run."""

import logging
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from scvi.model.base import BaseModelClass

from r2mae_core import UserError, reading, saying_disk_full, whole_folder
from r2mae_singlecell.frozen import freeze_again
from r2mae_singlecell.genes import kept_gene_columns

logger = logging.getLogger(__name__)
_KIND = "a model that save wrote"
_HARMLESS = {
    "_codecs": {"encode"},
    "builtins": {"bytes", "bytearray", "complex", "dict", "frozenset", "list", "range", "set", "slice", "tuple"},
    "collections": {"OrderedDict", "defaultdict"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "pandas": {"DataFrame", "Index", "RangeIndex", "Series", "StringDtype"},
    "pandas._libs.arrays": {"__pyx_unpickle_NDArrayBacked"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas.arrays": {"StringArray", "NumpyExtensionArray"},
    "pandas.core.arrays.string_": {"StringArray", "StringDtype"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager", "SingleBlockManager"},
    "pandas.core.series": {"Series"},
    "torch": {"Size", "device", "float32", "float64", "float16", "bfloat16", "int64", "int32", "bool"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_tensor_v2"},
}
"""Module → names that such a pickle is made of: numbers, text, arrays, tables and tensors."""


class SavedMixin(BaseModelClass):
    """`save` and `load` of `R2MAE`, as in scvi-tools, but whole or not at all, and without foreign code."""

    def save(
        self, dir_path: Any, prefix: str | None = None, overwrite: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        """Write the model as scvi-tools does: a folder with `model.pt`. The arguments are those of scvi-tools.

        Raises:
            UserError: the disk is full; an older model is as it was.
            ValueError: the folder is there, and is not to be overwritten.
        """
        self.gene_columns_ = kept_gene_columns(self)  # scvi-tools saves what ends in "_"
        folder = Path(dir_path)
        if folder.exists() and not overwrite:
            raise UserError(f"{folder} already exists; name another folder, or give overwrite=True")
        if not folder.exists():
            with whole_folder(folder) as new:
                super().save(str(new), prefix, True, *args, **kwargs)
            return
        with saying_disk_full(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as new:
            super().save(new, prefix, True, *args, **kwargs)
            for file in Path(new).iterdir():
                file.replace(folder / file.name)

    @classmethod
    def load(cls, dir_path: Any, *args: Any, trust: bool = False, **kwargs: Any) -> Any:
        """Load what `save` wrote. The other arguments are those of scvi-tools.

        The file is a pickle, as for every scvi-tools model. It is loaded only if it names nothing but numbers, text,
        arrays, tables and tensors, which is what `save` writes for built-in mask-ratio samplers.

        Args:
            dir_path: the folder.
            *args: of scvi-tools.
            trust: load any pickle, which can run code.
            **kwargs: of scvi-tools.

        Raises:
            UserError: the file is missing or damaged, or would run code.
        """
        prefix = kwargs.get("prefix") or (args[3] if len(args) > 3 else None)
        check_saved(dir_path, prefix, trust=trust)
        if trust:
            logger.warning("%s/model.pt is a pickle, which can run code: load only what you trust.", dir_path)
        try:
            model = super().load(dir_path, *args, **kwargs)
        except (EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
            raise UserError(f"the saved model in {dir_path} is damaged: {error}") from None
        freeze_again(model)
        return model

    @staticmethod
    def view_setup_args(dir_path: Any, prefix: str | None = None) -> None:
        """Print the arguments of the setup of a saved model; see `load`.

        Raises:
            UserError: the file is missing or damaged, or would run code.
        """
        check_saved(dir_path, prefix)
        BaseModelClass.view_setup_args(dir_path, prefix)

    @staticmethod
    def load_registry(dir_path: Any, prefix: str | None = None, *, trust: bool = False) -> Any:
        """Return the registry of a saved model; see `load`.

        Raises:
            UserError: the file is missing or damaged, or would run code.
        """
        check_saved(dir_path, prefix, trust=trust)
        return BaseModelClass.load_registry(dir_path, prefix)


def check_saved(dir_path: Any, prefix: str | None = None, *, trust: bool = False) -> None:
    """Refuse a saved model that is damaged or would run code.

    Nothing is loaded here: the pickle's instructions are read, and the names in them are looked up nowhere.

    Raises:
        UserError: with what the file names.
    """
    if trust:
        return
    file = Path(dir_path) / f"{prefix or ''}model.pt"
    if not file.exists():
        raise UserError(f"no saved model in {dir_path}: {file.name} is missing")
    with reading(file, _KIND), zipfile.ZipFile(file) as archive:
        names = [name.lower() for name in archive.namelist()]
        if len(set(names)) < len(names) or sum(name.rpartition("/")[2] == "data.pkl" for name in names) != 1:
            raise ValueError("it has not the parts of one")
        if any(name.endswith("constants.pkl") for name in names):
            raise ValueError("it is a compiled model")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is another")
        with archive.open(
            archive.namelist()[names.index(next(n for n in names if n.endswith("/data.pkl")))]
        ) as content:
            reader = _NamesOnly(content)
            try:
                reader.load()
            except _Foreign as found:
                raise UserError(
                    f"{file} is a pickle that names {found}, which save does not write for built-in samplers, and "
                    "loading it can run code; if you trust the file, give trust=True"
                ) from None


class _Foreign(Exception):  # noqa: N818
    """A name that a pickle of numbers and text does not have."""


class _Nothing:
    """Takes the place of whatever a pickle names, and does nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __call__(self, *args: Any) -> "_Nothing":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an item."""

    def add(self, item: Any) -> None:
        """Take an item."""


class _NamesOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Check a name without importing it."""
        home = {"__builtin__": "builtins"}.get(module, module).replace("numpy._core", "numpy.core")
        storage = home in ("torch", "torch.storage") and name.endswith("Storage")
        if not storage and name not in _HARMLESS.get(home, ()):
            raise _Foreign(f"{module}.{name}")
        return _Nothing

    def persistent_load(self, pid: Any) -> Any:
        return _Nothing()

"""Files of tensors: safetensors written, safetensors or plain torch files read, and never more than tensors."""

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import atomic_path, reading


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, atomically; equal tensors and metadata give equal bytes.

    Args:
        tensors: name → tensor, on any device.
        file: where.
        metadata: what else its header holds.

    Raises:
        UserError: the disk is full.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(file) as temporary:
        save_file(whole, temporary, metadata={"format": "pt", **(metadata or {})})
        _sort_metadata(Path(temporary))


def _sort_metadata(file: Path) -> None:
    """Put the header's metadata in order: the library writes them in another one each time."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) == size:  # else it was written in another style than json's
            stream.seek(8)
            stream.write(text)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of a torch file that holds nothing but tensors and plain data.

    A file of torch's own carries checksums, which are checked; those of a folder of ours are in its `SHA256SUMS`
    (see `check_checksums`).

    Raises:
        UserError: the file is missing, damaged, or holds more than that.
    """
    with reading(file, "a file of weights"):
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return load_torch(file)


def load_torch(file: Path, map_location: Any = "cpu", remedy: str = "") -> dict[str, Any]:
    """Read a file of torch's as tensors, numbers and strings; the checksum of each part is checked.

    Args:
        file: where.
        map_location: the device, as in `torch.load`.
        remedy: what to do about a damaged one, such as "; remove it to start again".

    Raises:
        UserError: it is missing or damaged, or holds more than that.
    """
    try:
        check_zip(file, remedy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about how others wrote their file
            return torch.load(file, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{file} is not there") from None
    except (UserError, MemoryError):
        raise
    except Exception:  # torch's readers raise almost anything about a file that is not theirs
        raise UserError(
            f"{file} is damaged, or holds more than tensors, numbers and strings, which this program never writes and "
            f"does not load{remedy}"
        ) from None


def check_zip(file: Path, remedy: str = "") -> None:
    """Compare the parts of a zip file with their checksums; another kind of file is left to its reader.

    Raises:
        UserError: a part is damaged.
    """
    if not zipfile.is_zipfile(file):
        return
    with reading(file, "a file of torch"), zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{file} is damaged: the checksum of {damaged} is another{remedy}")

"""The network, and its file format."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from r2mae_core import UserError, atomic_path, derived_seed, write_text


class RowAutoencoder(nn.Module):
    """Predicts a row from what is shown of it, and from which features are hidden.

    Args:
        n_features: of a row.
        n_hidden: width of the hidden layer.
        seed: of the initialisation.
    """

    def __init__(self, n_features: int, n_hidden: int, seed: int = 0) -> None:
        super().__init__()
        self.sizes = {"n_features": n_features, "n_hidden": n_hidden}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "start"))
            self.layers = nn.Sequential(nn.Linear(2 * n_features, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_features))

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Return the prediction, (B, features), of rows (B, features) that are hidden where `mask` is True."""
        return self.layers(torch.cat([rows.masked_fill(mask, 0.0), mask.to(rows.dtype)], dim=1))


def save_model(model: RowAutoencoder, folder: Path) -> None:
    """Write `model.safetensors` and `config.json`, the latter last."""
    with atomic_path(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in model.state_dict().items()}))
    write_text(folder / "config.json", json.dumps(model.sizes) + "\n")


def load_model(folder: Path) -> RowAutoencoder:
    """Return the model of a run folder or of its `model` folder, in evaluation mode.

    Raises:
        UserError: there is none.
    """
    home = folder / "model" if (folder / "model").is_dir() else folder
    if not (home / "config.json").exists():
        raise UserError(f"{folder} has no finished model")
    model = RowAutoencoder(**json.loads((home / "config.json").read_text(encoding="utf-8")))
    model.load_state_dict(load_file(home / "model.safetensors"))
    return model.eval()

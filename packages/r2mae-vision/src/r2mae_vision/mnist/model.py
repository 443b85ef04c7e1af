"""The MLP masked autoencoder of the paper's MNIST experiment (C.3), many at once.

Models of one shape that differ in ratio and seed are stacked along the first dimension and trained together: one such
model leaves a GPU idle, and even on a CPU the stack is faster than its members one by one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import (
    SUMS,
    CardFacts,
    RunFolder,
    SharedModel,
    UserError,
    check_checksums,
    derived_seed,
    reading,
    save_tensors,
    unfinished,
    write_checksums,
)
from r2mae_vision.data.tensors import read_tensors


class StackedLinear(nn.Module):
    """M linear layers side by side: (M, B, in) → (M, B, out), initialised as `nn.Linear`."""

    def __init__(self, n_models: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_models, fan_in, fan_out))
        self.bias = nn.Parameter(torch.empty(n_models, 1, fan_out))

    def reset(self, model: int, generator: torch.Generator) -> None:
        """Draw the parameters of one model, as `nn.Linear` does."""
        bound = self.weight.shape[1] ** -0.5
        with torch.no_grad():
            self.weight[model].uniform_(-bound, bound, generator=generator)
            self.bias[model].uniform_(-bound, bound, generator=generator)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class StackedBatchNorm(nn.Module):
    """M batch normalisations side by side over (M, B, width): one call with M · width channels."""

    def __init__(self, n_models: int, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(n_models * width)

    @override
    def forward(self, x: Tensor) -> Tensor:
        n_models, batch, width = x.shape
        flat = x.transpose(0, 1).reshape(batch, n_models * width)
        return self.norm(flat).view(batch, n_models, width).transpose(0, 1)


WEIGHTS = "model.safetensors"
"""A model's file in its folder."""
_CODE = """\
from r2mae_vision import MLPAutoencoder

model = MLPAutoencoder.from_pretrained("{name}")  # model.single(0): plain layers of torch
"""


class MLPAutoencoder(SharedModel, nn.Module):
    """M three-layer masked autoencoders: pixels → hidden1 → hidden2 → pixels, ReLU + batch norm, sigmoid output.

    Args:
        n_pixels: width of input and output.
        hidden: (hidden1, hidden2); the second layer is the representation.
        seeds: one model per entry; models with equal seeds are initialised alike.
    """

    hub_files = (WEIGHTS, SUMS)

    def __init__(self, n_pixels: int, hidden: tuple[int, int], seeds: tuple[int, ...] = (0,)) -> None:
        super().__init__()
        n_models = len(seeds)
        self.n_pixels, self.hidden, self.seeds = n_pixels, (hidden[0], hidden[1]), tuple(seeds)
        linears = [
            StackedLinear(n_models, n_pixels, hidden[0]),
            StackedLinear(n_models, hidden[0], hidden[1]),
            StackedLinear(n_models, hidden[1], n_pixels),
        ]
        for i, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(derived_seed(seed, "init"))
            for layer in linears:
                layer.reset(i, generator)
        self.encoder = nn.Sequential(
            linears[0],
            StackedBatchNorm(n_models, hidden[0]),
            nn.ReLU(),
            linears[1],
            StackedBatchNorm(n_models, hidden[1]),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(linears[2], nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images (M, B, pixels) in [0, 1], hidden pixels already zero."""
        return self.decoder(self.encoder(images))

    def masked_errors(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return each model's mean squared error on the hidden pixels, (M,).

        Args:
            images: (M, B, pixels), or anything that broadcasts to it.
            masks: (M, B, pixels), True = hidden.
        """
        hidden = masks.to(images.dtype)  # once; filling and multiplying by a Boolean mask take several times as long
        reconstruction = self(images * (1.0 - hidden))
        squared = F.mse_loss(reconstruction, images.expand_as(reconstruction), reduction="none")
        return (squared * hidden).sum((1, 2)) / hidden.sum((1, 2))

    def write_pretrained(self, folder: Path) -> None:
        """Write `model.safetensors`, which states its shape by its tensors, and its checksum."""
        save_tensors(self.state_dict(), folder / WEIGHTS, {"seeds": " ".join(map(str, self.seeds))})
        write_checksums(folder)

    @classmethod
    def read_pretrained(cls, folder: Path) -> Self:
        """Read what `write_pretrained` wrote.

        Raises:
            UserError: it is missing, damaged, or of another model.
        """
        from safetensors import safe_open

        check_checksums(folder)
        state = read_tensors(folder / WEIGHTS)
        with reading(folder / WEIGHTS, "an MLP of r2mae-vision"):
            first, second = state["encoder.0.weight"].shape, state["encoder.3.weight"].shape
            with safe_open(folder / WEIGHTS, "pt") as file:
                seeds = (file.metadata() or {}).get("seeds", " ".join("0" * first[0]))
            model = cls(first[1], (first[2], second[2]), tuple(map(int, seeds.split())))
            model.load_state_dict(state)
        return model.eval()

    def card_facts(self) -> CardFacts:
        """Return what its card on the hub says of it."""
        n = len(self.seeds)
        return CardFacts(
            what="A masked autoencoder of small grey images: three dense layers.",
            library="r2mae",
            code={"r2mae-vision": _CODE},
            tags=("vision", "autoencoder"),
            details={
                "pixels": f"{self.n_pixels:,}",
                "hidden layers": f"{self.hidden[0]:,} and {self.hidden[1]:,}; the second is the representation",
                **({"models in a stack": f"{n}"} if n > 1 else {}),
            },
            limits=("It reads images of exactly these pixels, in [0, 1], centred and scaled as its training data.",),
        )

    def members(self, models: Sequence[int]) -> "MLPAutoencoder":
        """Return a stack of copies of some of the models, in evaluation mode."""
        stack, n_models = (
            MLPAutoencoder(self.n_pixels, self.hidden, tuple(self.seeds[i] for i in models)),
            len(self.seeds),
        )
        own = stack.state_dict()
        for name, value in self.state_dict().items():
            rows = value.view(n_models, -1)[list(models)] if value.dim() else value
            own[name].copy_(rows.reshape(own[name].shape))
        return stack.to(next(self.parameters()).device).eval()

    def single(self, model: int) -> nn.Sequential:
        """Return one model as plain torch layers, independent of the stack: seven layers and the sigmoid."""
        layers: list[nn.Module] = []
        for layer in [*self.encoder, *self.decoder]:
            if isinstance(layer, StackedLinear):
                linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[2])
                linear.load_state_dict({"weight": layer.weight[model].T, "bias": layer.bias[model, 0]})
                layers.append(linear)
            elif isinstance(layer, StackedBatchNorm):
                width = layer.norm.num_features // len(self.seeds)
                channels = slice(model * width, (model + 1) * width)
                state = layer.norm.state_dict()
                norm = nn.BatchNorm1d(width)
                norm.load_state_dict({k: v if v.dim() == 0 else v[channels] for k, v in state.items()})
                layers.append(norm)
            else:
                layers.append(type(layer)())
        return nn.Sequential(*layers)


def model_file(run: RunFolder) -> Path:
    """Return the file of the weights; the run's config.yaml states their shape."""
    return run.path / "model" / WEIGHTS


def load_model(run: RunFolder, n_pixels: int) -> MLPAutoencoder:
    """Read the model that `pretrain_mlp` saved.

    Raises:
        UserError: the folder holds no finished pretraining, or a damaged one, or that of other images.
    """
    if not model_file(run).exists():
        raise unfinished(run.path)
    check_checksums(model_file(run).parent)
    hidden, seed = run.config.get("n_hidden"), run.config.get("seed")
    if not (
        isinstance(hidden, list) and len(hidden) == 2 and all(type(n) is int and n > 0 for n in [*hidden, seed or 1])
    ):
        raise UserError(f"{run.path / 'config.yaml'} is damaged: n_hidden is {hidden!r} and seed {seed!r}")
    model, state = MLPAutoencoder(n_pixels, (hidden[0], hidden[1]), (seed,)), read_tensors(model_file(run))
    sizes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wrong := sorted(name for name in {*sizes, *found} if sizes.get(name) != found.get(name)):
        raise UserError(
            f"{model_file(run)} does not fit {n_pixels} pixels and hidden layers of {hidden[0]} and {hidden[1]}: "
            f"{wrong[0]} is {found.get(wrong[0])} there and {sizes.get(wrong[0])} here"
        )
    model.load_state_dict(state)
    return model.eval()

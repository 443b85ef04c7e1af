"""The U-Net of the paper's CelebA experiment (C.4), its pixel masks and its loss.

The paper gives four down and four up blocks with skip connections, a bottleneck, and two 3 × 3 convolutions with batch
norm and ReLU in each. Chosen here: channels double at each level (c, 2c, 4c, 8c, bottleneck 16c), max-pooling down,
2 × 2 transposed convolutions up, no bias before a batch norm, and a 1 × 1 convolution with a sigmoid at the end, as in
the MNIST model (`output="linear"` leaves the sigmoid out).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import (
    SUMS,
    CardFacts,
    SharedModel,
    UserError,
    check_checksums,
    derived_seed,
    exact_mask,
    nested_masks,
    reading,
    save_tensors,
    write_checksums,
)
from r2mae_vision.data.tensors import check_finite

LEVELS = 4
N_COLOURS = 3
Output = Literal["sigmoid", "linear"]


class ConvBlock(nn.Sequential):
    """Two 3 × 3 convolutions, each with batch norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        layers: list[nn.Module] = []
        for fan_in in (channels_in, channels_out):
            layers += [nn.Conv2d(fan_in, channels_out, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UpBlock(nn.Module):
    """Twice the side and half the channels, the skip connection beside them, and a convolutional block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.block = ConvBlock(2 * channels, channels)

    @override
    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([self.up(x), skip], dim=1))


class UNet(SharedModel, nn.Module):
    """Four down blocks, a bottleneck and four up blocks with skip connections: (B, 3, H, W) → (B, 3, H, W).

    Args:
        base_channels: channels of the first block; the bottleneck has 16 times as many.
        output: "sigmoid" keeps the answer in [0, 1]; "linear" does not.
        seed: for initialisation.
    """

    hub_files = ("model.safetensors", SUMS)

    def __init__(self, base_channels: int = 16, *, output: Output = "sigmoid", seed: int = 0) -> None:
        super().__init__()
        if base_channels < 1:
            raise UserError(f"base_channels must be at least 1, got {base_channels}")
        self.base_channels, self.output = base_channels, output
        widths = [base_channels * 2**level for level in range(LEVELS + 1)]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(seed, "init"))
            inputs = [N_COLOURS, *widths[:-2]]
            self.down = nn.ModuleList([ConvBlock(i, o) for i, o in zip(inputs, widths[:-1], strict=True)])
            self.bottleneck = ConvBlock(widths[-2], widths[-1])
            self.up = nn.ModuleList([UpBlock(width) for width in reversed(widths[:-1])])
            self.head = nn.Conv2d(base_channels, N_COLOURS, 1)
        self.pool = nn.MaxPool2d(2)

    def write_pretrained(self, folder: Path) -> None:
        """Write `model.safetensors`, with the model's shape in its header, and its checksum."""
        shape = {"base_channels": str(self.base_channels), "output": self.output}
        save_tensors(self.state_dict(), folder / "model.safetensors", shape)
        write_checksums(folder)

    @classmethod
    def read_pretrained(cls, folder: Path) -> Self:
        """Read what `write_pretrained` wrote.

        Raises:
            UserError: it is missing, damaged, or of another model.
        """
        file = folder / "model.safetensors"
        check_checksums(folder)
        with reading(file, "a U-Net of r2mae-vision"):
            return cls._read(file).eval()

    @classmethod
    def _read(cls, file: Path) -> Self:
        from safetensors import safe_open

        with safe_open(file, "pt") as saved:
            shape = saved.metadata() or {}
            channels, output = int(shape["base_channels"]), shape["output"]
            state = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        if (
            output not in ("sigmoid", "linear") or state["head.weight"].shape[1] != channels
        ):  # before anything large is made
            raise ValueError("its header does not state its shape")
        check_finite(state, file)
        model = cls(channels, output=output)  # pyright: ignore[reportArgumentType]
        model.load_state_dict(state)
        return model

    def card_facts(self) -> CardFacts:
        """Return what its card on the hub says of it."""
        return CardFacts(
            what="A masked autoencoder of colour images: a U-Net that fills in hidden pixels.",
            library="r2mae",
            code={"r2mae-vision": 'from r2mae_vision import UNet\n\nmodel = UNet.from_pretrained("{name}")\n'},
            task="image-to-image",
            tags=("vision", "autoencoder", "u-net"),
            details={"channels of the first block": f"{self.base_channels}", "output": self.output},
            limits=("It reads images in [0, 1] whose sides can be halved four times, hidden pixels set to zero.",),
        )

    @property
    def n_features(self) -> int:
        """Channels of the representation."""
        return self.base_channels * 2**LEVELS

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the bottleneck's output and the four skips, the finest first.

        Raises:
            UserError: a side cannot be halved four times.
        """
        check_side(*images.shape[-2:])
        skips: list[Tensor] = []
        for block in self.down:
            images = block(images)
            skips.append(images)
            images = self.pool(images)
        return self.bottleneck(images), skips

    def representation(self, images: Tensor) -> Tensor:
        """Return encoder and bottleneck's output, (B, 16 · base_channels, H/16, W/16): what the probe sees."""
        return self.encode(images)[0]

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstruction of images (B, 3, H, W) in [0, 1] whose hidden pixels are zero."""
        x, skips = self.encode(images)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(x, skip)
        x = self.head(x).float()  # bf16 has 8 bits: too few for the differences that the loss squares
        return x.sigmoid() if self.output == "sigmoid" else x

    def reconstruct(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return what the model makes of images whose hidden pixels it does not see.

        Args:
            images: (B, 3, H, W) in [0, 1].
            masks: (B, 1, H, W), True = hidden in all three colours.
        """
        return self(images.masked_fill(masks, 0.0))

    def masked_error(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the mean squared error over the hidden pixels, a scalar; shapes as in `reconstruct`."""
        squared = (self.reconstruct(images, masks) - images).square()
        return (squared * masks).sum() / (masks.sum() * N_COLOURS)


def check_side(*sides: int) -> None:
    """Raise a UserError if a side of the images cannot be halved four times."""
    if bad := [side for side in sides if side < 1 or side % 2**LEVELS]:
        raise UserError(
            f"the U-Net halves its images {LEVELS} times, so their side must be a multiple of {2**LEVELS}; got {bad[0]}"
        )


def scale(images: Tensor) -> Tensor:
    """Turn stored images (B, H, W, 3) uint8 into (B, 3, H, W) float32 in [0, 1].

    The memory stays as it is: what the store calls height × width × colour, convolutions call channels_last.
    """
    return images.permute(0, 3, 1, 2).float() / 255


def pixel_mask(images: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide an exact number of pixel positions in each image, the three colours of a pixel together.

    Args:
        images: (B, 3, H, W); only their shape counts.
        ratio: fraction of the H · W positions.
        generator: source of randomness, on the mask's device.

    Returns:
        (B, 1, H, W) bool, True = hidden.
    """
    n, _, height, width = images.shape
    return exact_mask((n, height * width), ratio, generator=generator).view(n, 1, height, width)


def nested_pixel_masks(images: Tensor, ratios: Sequence[float], generator: torch.Generator) -> Tensor:
    """Return `pixel_mask` at several ratios from one set of scores, (R, B, 1, H, W)."""
    n, _, height, width = images.shape
    return nested_masks((n, height * width), ratios, generator=generator).view(len(ratios), n, 1, height, width)

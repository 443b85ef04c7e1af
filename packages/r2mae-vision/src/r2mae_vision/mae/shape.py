"""The shape of a masked autoencoder, and timm's encoder of that shape."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from r2mae_core import Positive, UserError, check_bounds
from r2mae_vision.data.options import Width
from r2mae_vision.data.sizes import Side, Size, is_size, pair, plain, settle_size, shown

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MAEShape:
    """All that determines the shape of a masked autoencoder; written beside its weights."""

    model: str = "vit_base_patch16_224"
    """A VisionTransformer of timm."""
    image_size: Size = 224
    """Side of a square, or height and width."""
    patch_size: Side | None = None
    """None: the model's own."""
    in_chans: Width = 3
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's model, such as {"depth": 6, "embed_dim": 256}."""
    decoder_dim: Width = 512
    decoder_depth: Width = 8
    decoder_heads: Width = 16
    norm_pix_loss: bool = True
    """Predict each patch's pixels after taking off the patch's own mean and dividing by its deviation."""
    positions: Literal["sincos", "learned"] = "sincos"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[Positive, ...] = IMAGENET_STD
    """Pixels in [0, 1] are normalised by these before anything else."""
    norm_eps: Positive | None = None
    """Epsilon of every layer norm; None: timm's, 1e-6."""
    pixel_range: tuple[float, float] | None = None
    """Numbers of the image files that are 0 and 1 for mean and std; None: 0 … 255, pictures of eight bits."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "image_size": plain(self.image_size)}

    def __post_init__(self) -> None:
        check_bounds(self)
        settle_size(self)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return pair(self.image_size)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "MAEShape":
        """Return the shape that `plain` wrote.

        Raises:
            UserError: something is missing, unknown or of another kind.
        """
        plain = {"pixel_range": None, **plain}  # which older models do not state
        known = {field.name for field in fields(cls)}
        if differs := sorted(known ^ set(plain)):
            raise UserError(f"{differs[0]} is {'missing' if differs[0] in known else 'unknown'}")
        found = {**plain, **{name: tuple(plain[name]) if _is_list(plain[name]) else plain[name] for name in _LISTS}}
        for name, kinds in _KINDS.items():
            value = found[name]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise UserError(f"{name} is {value!r}")
        if any(
            isinstance(number, bool) or not isinstance(number, int | float) for n in _LISTS for number in found[n] or ()
        ):
            raise UserError("mean, std and pixel_range must be lists of numbers")
        if (span := found["pixel_range"]) is not None and not (len(span) == 2 and span[0] < span[1]):
            raise UserError(f"pixel_range is {span!r}")
        if not is_size(found["image_size"]):
            raise UserError(f"image_size is {found['image_size']!r}")
        if found["positions"] not in ("sincos", "learned"):
            raise UserError(f"positions is {found['positions']!r}")
        return cls(**found)


_LISTS = ("mean", "std", "pixel_range")
_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "patch_size": (int, NoneType),
    "model_args": (dict,),
    "norm_pix_loss": (bool,),
    "positions": (str,),
    "norm_eps": (int, float, NoneType),
    **dict.fromkeys(("mean", "std"), (tuple,)),
    "pixel_range": (tuple, NoneType),
    **dict.fromkeys(("in_chans", "decoder_dim", "decoder_depth", "decoder_heads"), (int,)),
}


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def pixel_scale(shape: MAEShape, device: str | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of pixels of 0 … 255, each (C, 1, 1)."""
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) * 255 for values in (shape.mean, shape.std))
    return mean, std


def create_encoder(shape: MAEShape) -> Any:
    """Return timm's VisionTransformer without a head, with the positions that the shape describes."""
    import timm
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    arguments: dict[str, Any] = {
        "img_size": shape.size,
        "in_chans": shape.in_chans,
        "num_classes": 0,
        "global_pool": "",
    }
    if shape.patch_size is not None:
        arguments["patch_size"] = shape.patch_size
    check_model_args(shape.model_args)
    if not timm.is_model(shape.model):
        near = ", ".join(timm.list_models(f"*{shape.model.split('_')[0]}*patch16_224")[:4]) or "vit_base_patch16_224"
        raise UserError(f"timm has no model {shape.model!r}; there are, for example, {near}")
    try:
        encoder: Any = timm.create_model(shape.model, **{**arguments, **shape.model_args})
    except Exception as error:  # whatever a network does with sizes that do not fit
        raise UserError(f"timm cannot build {shape.model} with {arguments | shape.model_args}: {error}") from None
    if type(encoder) is not VisionTransformer or type(encoder.patch_embed) is not PatchEmbed:
        raise UserError(f"{shape.model} is not a plain VisionTransformer of timm, as these models must be")
    if encoder.pos_embed is None:
        raise UserError(f"{shape.model} has no absolute positions; choose a model that has them")
    patch: Any = encoder.patch_embed.patch_size
    if patch[0] != patch[1] or any(side % patch[0] for side in shape.size):
        raise UserError(
            f"image size {shown(shape.image_size)} is not a multiple of {shape.model}'s patch size {patch[0]}; "
            "change --image_size or --patch_size"
        )
    if shape.positions == "sincos":
        n_prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
        positions = sincos_positions(encoder.embed_dim, encoder.patch_embed.grid_size, n_prefix)
        encoder.pos_embed = nn.Parameter(positions, requires_grad=False)
    return encoder


_OURS = ("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "device", "dtype")
_CODE = ("embed_layer", "block_fn", "mlp_layer")  # classes, which an option cannot name


def check_model_args(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of timm's model that are no plain sizes and switches of a VisionTransformer.

    `timm.create_model` takes others that read files or fetch weights, and these may come from a file.

    Raises:
        UserError: one is named.
    """
    from timm.models.vision_transformer import VisionTransformer

    known = [name for name in inspect.signature(VisionTransformer).parameters if name not in (*_OURS, *_CODE)]
    for name, value in arguments.items():
        if name in ("img_size", "patch_size", "in_chans"):
            raise UserError(f"model_args: {name} has an option of its own, --{name.replace('img', 'image')}")
        if name not in known:
            raise UserError(f"model_args: {name} is not an argument of a VisionTransformer; known: {', '.join(known)}")
        if not isinstance(value, str | int | float | NoneType):
            raise UserError(f"model_args: {name} must be a number, a switch or a name, got {value!r}")


def sincos_positions(width: int, grid: tuple[int, int], n_prefix: int = 0) -> Tensor:
    """Return fixed two-dimensional sine-cosine positions, (1, n_prefix + rows · columns, width).

    The first half of the channels holds the column, the second the row, each as sines and then cosines of wavelengths
    from 2π to 20,000π; prefix tokens get zeros (He et al., 2022).

    Raises:
        UserError: the width is not a multiple of four.
    """
    if width % 4:
        raise UserError(f"sine-cosine positions need a width that is a multiple of 4, not {width}")
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    frequency = 1.0 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    parts = []
    for coordinate in (columns, rows):
        angle = coordinate.flatten()[:, None] * frequency
        parts += [angle.sin(), angle.cos()]
    positions = torch.cat(parts, dim=1).float()
    return torch.cat([torch.zeros(n_prefix, width), positions])[None]


def set_norm_eps(model: nn.Module, eps: float | None) -> None:
    """Set the epsilon of every layer norm, if one is given."""
    if eps is not None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps

"""Positions of other people's patches: how the patches lie, and what is resampled for images of another size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from r2mae_core import UserError
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.tensors import State


def grid_of(size: tuple[int, int], encoder: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return rows and columns of the patches of images of a size; the encoder's kernel tells the patches' size."""
    kernel = encoder.get("patch_embed.proj.weight")
    if kernel is None or kernel.dim() != 4:
        return None
    return size[0] // kernel.shape[2], size[1] // kernel.shape[3]


def fit_encoder_positions(
    state: Mapping[str, Tensor],
    encoder: Any,
    file: Path | str,
    prefix: str = "",
    there: tuple[int, int] | None = None,
) -> State:
    """Return a state dict whose encoder positions fit timm's encoder: resampled, and without the class token's.

    Arguments and errors are those of `fit_positions`. DINOv2 with registers adds a position to its class token; timm's
    model of it has that in the token itself.
    """
    state = dict(state)
    positions = state[f"{prefix}pos_embed"]
    n_prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    token = state.get(f"{prefix}cls_token")
    if encoder.no_embed_class and token is not None and positions.dim() == 3:
        n = positions.shape[1] - 1
        if n and (_square(n) if there is None else n == there[0] * there[1]):
            state[f"{prefix}cls_token"] = token + positions[:, :1]
            positions = positions[:, 1:]
    state[f"{prefix}pos_embed"] = fit_positions(positions, encoder.patch_embed.grid_size, n_prefix, file, there)
    return state


def fit_positions(
    positions: Tensor,
    grid: tuple[int, int],
    n_prefix: int,
    file: Path | str,
    there: tuple[int, int] | None = None,
) -> Tensor:
    """Return positions (1, n_prefix + N, D) resampled to another grid, as timm does.

    Args:
        positions: of the file.
        grid: rows and columns of the model's patches.
        n_prefix: tokens before the patches.
        file: for messages.
        there: rows and columns of the file's patches; None: nothing states them. As many as a square has are then one,
            as everybody takes them; others can only be the model's own, and what was taken is said.

    Raises:
        UserError: it cannot be told how the patches of the file lie, or they are others than it states.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    if positions.dim() != 3:
        raise UserError(f"{file} has positions of shape {tuple(positions.shape)}, not (1, patches, width)")
    n, same = positions.shape[1] - n_prefix, positions.shape[1] - n_prefix == grid[0] * grid[1]
    if there is not None and there[0] * there[1] != n:
        raise UserError(f"{file} has positions for {n} patches, but states images of {there[0]} x {there[1]} patches")
    if there is None:
        side = round(max(n, 0) ** 0.5)
        if not (same or _square(n)):
            raise UserError(
                f"{file} has positions for {n} patches, which do not form a square; they cannot be resampled"
            )
        there = (side, side) if _square(n) else grid
        if same and grid[0] != grid[1]:
            say_once(
                f"{file} does not state the shape of its images: its {n} positions are taken for {there[0]} x "
                f"{there[1]} patches"
            )
    if there == grid:
        return positions
    return resample_abs_pos_embed(positions, list(grid), list(there), num_prefix_tokens=n_prefix)


def _square(n: int) -> bool:
    return n > 0 and round(n**0.5) ** 2 == n

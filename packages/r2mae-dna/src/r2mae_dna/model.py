"""The network of GPN-MSA: a RoFormer encoder over one-hot columns of an alignment (paper, 4.2 and C.7).

No embedding matrix: a position's vector is the one-hot of its own token followed by the one-hots of the other
species' letters, padded with zeros to the width. Post-norm layers, rotary positions, exact GELU.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r2mae_core import SUMS, CardFacts, SharedModel, UserError, write_checksums
from r2mae_dna.data.codes import GAP, MASK, N_LETTERS, N_TOKENS, SOFT_MASK, TOKEN_BITS
from r2mae_dna.limits import MAX_POSITIONS

HEAD_WIDTH = 64
SIZES: dict[str, tuple[int, int]] = {"tiny": (4, 256), "small": (8, 512), "base": (12, 768)}
"""Name → (layers, width); GPN-MSA's own choices, base being the paper's."""
ROTARY_BASE = 10_000.0
NORM_EPS = 1e-12
INIT_STD = 0.02


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a network.

    Raises:
        UserError: the width is too small for the species, or is not a multiple of twice the heads.
    """

    n_species: int
    """Species beside the reference."""
    n_hidden: int = 768
    n_layers: int = 12
    n_heads: int = 12
    intermediate: int = 3072
    dropout: float = 0.1

    def __post_init__(self) -> None:
        needed = N_TOKENS + N_LETTERS * self.n_species
        if self.n_hidden < needed:
            raise UserError(f"{self.n_species} species need a width of at least {needed}, got n_hidden={self.n_hidden}")
        if self.n_heads < 1 or self.n_hidden % (2 * self.n_heads):
            raise UserError(f"n_hidden={self.n_hidden} is not a multiple of 2 x n_heads={self.n_heads}")

    @classmethod
    def sized(
        cls,
        size: str,
        n_species: int,
        *,
        n_hidden: int | None = None,
        n_layers: int | None = None,
        n_heads: int | None = None,
        dropout: float = 0.1,
    ) -> "ModelConfig":
        """Return a named size, with what is given instead of its own."""
        layers, width = SIZES[size]
        width = n_hidden or width
        heads = n_heads or max(width // HEAD_WIDTH, 1)
        return cls(n_species, width, n_layers or layers, heads, 4 * width, dropout)

    def flops(self, length: int, n_positions: int | None = None) -> int:
        """Return the floating-point operations of one window's forward pass (two per multiply-add).

        Args:
            length: bases of the window.
            n_positions: positions that the last layer and the head compute; None: all.
        """
        d, m, n = self.n_hidden, self.intermediate, length if n_positions is None else n_positions

        def layer(queries: int) -> int:
            dense = length * 2 * d * d + queries * (2 * d * d + 2 * d * m)
            return 2 * dense + 4 * queries * length * d

        return (self.n_layers - 1) * layer(length) + layer(n) + 2 * n * (d * d + d * N_TOKENS)


def rotary_table(length: int, head_width: int) -> Tensor:
    """Return (2, length, head_width / 2) float32: cosine and sine of position · 10000^(-2i / head_width)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring pairs of features by their position's angle.

    Args:
        x: (B, L, H, head_width).
        table: (2, L, head_width / 2), or (2, B, L, head_width / 2) if rows have positions of their own.
    """
    pairs, table = x.unflatten(-1, (-1, 2)), table.unsqueeze(-2)
    if x.dtype == torch.float32 and not torch.compiler.is_compiling():
        # One complex product: on a CPU three times as fast as the four real ones, which a compiler fuses.
        turned = torch.view_as_complex(pairs) * torch.complex(table[0], table[1])
        return torch.view_as_real(turned).flatten(-2)
    even, odd = pairs.unbind(-1)
    cosine, sine = table.to(x.dtype)
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)


class Layer(nn.Module):
    """Attention and feed-forward, each followed by its residual sum and norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.n_hidden
        self.heads, self.dropout = config.n_heads, config.dropout
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.attention_norm = nn.LayerNorm(d, NORM_EPS)
        self.up, self.down = nn.Linear(d, config.intermediate), nn.Linear(config.intermediate, d)
        self.output_norm = nn.LayerNorm(d, NORM_EPS)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Return (B, L, d) for all positions."""
        qk, v = self.qkv(x).unflatten(-1, (3 * self.heads, -1)).tensor_split([2 * self.heads], dim=2)
        q, k = rotate(qk, table).chunk(2, 2)
        return self._finish(x, q, k, v)

    def at(self, x: Tensor, table: Tensor, positions: Tensor, places: Tensor | None = None) -> Tensor:
        """Return (B, P, d) for some positions alone, or (N, d) for some places of them.

        The other positions are keys and values only; the other places are queries of zeros, whose output is dropped.
        """
        d, shape = x.shape[-1], positions.shape
        if places is None:
            chosen = x.gather(1, positions[..., None].expand(-1, -1, d))
        else:
            row = places.div(shape[1], rounding_mode="floor")
            wanted = row * x.shape[1] + positions.flatten().index_select(0, places)
            chosen = x.flatten(0, 1).index_select(0, wanted)
        q = F.linear(chosen, self.qkv.weight[:d], self.qkv.bias[:d])
        if places is not None:
            q = q.new_zeros(shape.numel(), d).index_copy(0, places, q).view(*shape, d)
        kv = F.linear(x, self.qkv.weight[d:], self.qkv.bias[d:]).unflatten(-1, (2 * self.heads, -1))
        k, v = kv.chunk(2, 2)
        q = q.unflatten(-1, (self.heads, -1))
        return self._finish(chosen, rotate(q, table[:, positions]), rotate(k, table), v, places)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def _finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the layer's output where the queries are, or at some of their places.

        Args:
            x: (B, P or L, d), or (N, d): the layer's input there.
            q: (B, P or L, H, head_width).
            k: (B, L, H, head_width), as is v.
            v: see k.
            places: see `AlignmentModel.encode`.
        """
        dropout = self.dropout if self.training else 0.0
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(-2)
        if places is not None:
            mixed = mixed.flatten(0, 1).index_select(0, places)
        x = self.attention_norm(x + self._drop(self.out(mixed)))
        return self.output_norm(x + self._drop(self.down(F.gelu(self.up(x)))))


class Head(nn.Module):
    """From the encoder's output to logits of "-ACGT?"."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, NORM_EPS)
        self.decoder = nn.Linear(hidden, N_TOKENS)

    def features(self, x: Tensor) -> Tensor:
        """Return (…, hidden): what the decoder reads."""
        return self.norm(F.gelu(self.dense(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, 6) logits."""
        return self.decoder(self.features(x))


@dataclass(frozen=True)
class Origin:
    """What a model was trained on; it is kept in its folder, and changes nothing that it computes."""

    species: tuple[str, ...] | None = None
    """The reference first; None: not known."""
    targets: str = "reference"
    """The objective."""
    window: int | None = None
    """Bases of a window; None: not known."""


class AlignmentModel(SharedModel, nn.Module):
    """Encoder and head.

    Args:
        config: the shape.
        seed: seed for the initial weights, N(0, 0.02); they depend on nothing else.
    """

    hub_files = ("config.json", "model.safetensors*", "model-*.safetensors", "pytorch_model.bin", SUMS)

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.origin = config, Origin()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.head = Head(config.n_hidden)
        table = rotary_table(MAX_POSITIONS, config.n_hidden // config.n_heads)
        self.register_buffer("table", table, persistent=False)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD, generator=generator)
                nn.init.zeros_(module.bias)

    def one_hot(self, codes: Tensor) -> Tensor:
        """Return the input vectors (B, L, hidden) of tokens (B, L, 1 + species) uint8, the reference first.

        The mask has a feature of its own in the reference, and none in the other species: a hidden letter is zeros.
        """
        dtype = self.head.dense.weight.dtype
        letters = torch.arange(N_TOKENS, dtype=torch.uint8, device=codes.device)
        own = (codes[..., :1] == letters).to(dtype)
        others = (codes[..., 1:, None] == letters[:N_LETTERS]).flatten(-2).to(dtype)
        return F.pad(torch.cat([own, others], -1), (0, self.config.n_hidden - own.shape[-1] - others.shape[-1]))

    def encode(self, codes: Tensor, positions: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """Return the last layer's output.

        Args:
            codes: (B, L, 1 + species) uint8 tokens.
            positions: (B, P) int64, where the output is wanted; None: everywhere. The last layer computes no other.
            places: (N,) int64, ascending: which of the B · P positions, counted through, are wanted; None: all. So
                windows can have a number of positions each.

        Returns:
            (B, P, hidden), (N, hidden) with places, or (B, L, hidden).

        Raises:
            ValueError: the codes do not have the model's number of species, or are longer than `MAX_POSITIONS`.
        """
        if codes.shape[-1] != self.config.n_species + 1:
            raise ValueError(f"the model has 1 + {self.config.n_species} species, the codes {codes.shape[-1]}")
        if codes.shape[1] > MAX_POSITIONS:
            raise ValueError(f"a window has at most {MAX_POSITIONS} bases, got {codes.shape[1]}")
        table = self.table[:, : codes.shape[1]]  # pyright: ignore[reportIndexIssue]
        x = self.trunk(codes, table)
        last = self.layers[-1]
        return last(x, table) if positions is None else last.at(x, table, positions, places)  # pyright: ignore[reportCallIssue]

    def trunk(self, codes: Tensor, table: Tensor) -> Tensor:
        """Return the output of the last layer but one: all that is computed at every position."""
        x = self.one_hot(codes)
        for layer in self.layers[:-1]:  # pyright: ignore[reportGeneralTypeIssues]
            x = layer(x, table)
        return x

    def compile_trunk(self) -> None:
        """Compile the part of fixed shape; the last layer's number of positions changes with the ratio."""
        self.trunk = torch.compile(self.trunk, dynamic=False)

    def forward(self, codes: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return logits (B, P or L, 6); the arguments are those of `encode`."""
        return self.head(self.encode(codes, positions))

    def write_pretrained(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` in the layout of the published models."""
        from r2mae_dna.weights import save_model

        save_model(self, folder, self.origin.species, self.origin.targets, self.origin.window)
        write_checksums(folder)

    @classmethod
    def read_pretrained(cls, folder: Path) -> Self:
        """Read such a folder; see `load_model`."""
        from r2mae_dna.weights import load_model

        return load_model(folder).model  # pyright: ignore[reportReturnType]

    def card_facts(self) -> CardFacts:
        """Return what its card on the hub says of it."""
        from r2mae_dna.push import card_facts

        return card_facts(self)

    @property
    def n_parameters(self) -> int:
        """Trainable numbers; 85,651,206 for the paper's network with 89 species."""
        return sum(parameter.numel() for parameter in self.parameters())


def complement(codes: Tensor) -> Tensor:
    """Return the complementary letters of bytes of a store, computed on their device; gap, mask and case stay."""
    token = codes & TOKEN_BITS
    return torch.where((token > GAP) & (token < MASK), MASK - token, token) | (codes & SOFT_MASK)


def both_strands(model: AlignmentModel, codes: Tensor) -> Tensor:
    """Return the logits of A, C, G, T at the centre with the centre masked, mean of both strands, (n, 4) float32.

    Args:
        model: the network, in evaluation mode.
        codes: (n, L, 1 + species) uint8 tokens; the centre is L // 2.
    """
    n, length = codes.shape[:2]
    windows = torch.cat([codes, complement(codes).flip(1)])
    centre = torch.full((n, 1), length // 2, device=codes.device)
    positions = torch.cat([centre, length - 1 - centre])
    windows[..., 0].scatter_(1, positions, MASK)
    logits = model(windows, positions)[:, 0, 1:5].float()
    own, other = logits.chunk(2)
    return (own + other.flip(-1)) / 2

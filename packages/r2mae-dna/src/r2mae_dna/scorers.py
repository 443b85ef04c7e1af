"""How likely each base is at a site, by a network or by the column's own letters.

Sites are scored, not variants: one forward pass gives the logits of all four bases, enough for three alternatives.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from r2mae_core import precision, say
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.limits import DEFAULT_WINDOW

FREQUENCIES = "frequencies"


class SiteScorer(Protocol):
    """Anything that predicts how likely each base is at the centre of a window."""

    @property
    def name(self) -> str:
        """The name in headers."""
        ...

    @property
    def digest(self) -> str:
        """Digest of its weights, for headers."""
        ...

    @property
    def window(self) -> int:
        """Bases that it sees around a site, the site at index window // 2."""
        ...

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return (n, 4) float32 log-scores of A, C, G, T for windows (n, window, 1 + S) of bytes."""
        ...

    def at(self, block: np.ndarray, sites: np.ndarray) -> np.ndarray:
        """Return the same for sites of one stretch of the alignment.

        Args:
            block: (m, 1 + S) bytes.
            sites: (n,) indices into the block, whose windows lie in it.
        """
        ...


class FrequencyScorer:
    """Counts of the other species' letters at the site, plus one: the baseline that any model should beat.

    Args:
        window: bases by which `min_defined` is judged; the score depends on the site's column alone.
    """

    name, digest = FREQUENCIES, "none"

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        self.window = window

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return log(count + 1), (n, 4)."""
        return self._of(windows[:, windows.shape[1] // 2])

    def at(self, block: np.ndarray, sites: np.ndarray) -> np.ndarray:
        """Return log(count + 1), (n, 4)."""
        return self._of(block[sites])

    @staticmethod
    def _of(columns: np.ndarray) -> np.ndarray:
        """Return the scores of columns (n, 1 + S)."""
        counts = np.zeros((4, len(columns)), np.uint16)
        for species in np.ascontiguousarray(columns[:, 1:].T):  # along contiguous memory: thirty times faster
            for i in range(4):
                counts[i] += species == i + 1
        return np.log(counts.T + 1.0).astype(np.float32)


class ModelScorer:
    """The network's logits, mean of both strands.

    Args:
        folder: run folder or published model.
        store: the alignment; refused if its species differ from the model's.
        device: torch device type.
        bf16: compute in bfloat16; differences of logits are taken in float32.
        compile: whether to compile; the last batch is then padded, so that one graph is enough.
        batch_size: sites per forward pass.
        window: bases around a site; None: those that the model was trained on.
    """

    def __init__(
        self,
        folder: Path,
        store: AlignmentStore,
        device: str,
        *,
        bf16: bool,
        compile: bool,
        batch_size: int,
        window: int | None = None,
    ) -> None:
        import torch

        from r2mae_dna.weights import load_model

        pretrained = load_model(folder)
        pretrained.check_species(store.species, store.n_species, str(store.path))
        self.name, self.digest = folder.name, pretrained.digest
        self.window: int = window or pretrained.window or DEFAULT_WINDOW
        if pretrained.window not in (None, self.window):
            say(f"{folder} was trained on windows of {pretrained.window} bases, and sees {self.window} here: --window")
        self.model = pretrained.model.to(device)
        self.device, self.batch_size = torch.device(device), batch_size
        self.bf16, self.pad = bf16, compile
        if compile:
            self.model.compile_trunk()

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return logits (n, 4) float32."""
        import torch

        codes = torch.from_numpy(windows & TOKEN_BITS).to(self.device, non_blocking=True)
        with torch.inference_mode():
            return self._logits(codes).cpu().numpy()

    def at(self, block: np.ndarray, sites: np.ndarray) -> np.ndarray:
        """Return logits (n, 4) float32; the block is copied to the device once, and windows are cut there."""
        import torch

        if len(sites) == 0:
            return np.zeros((0, 4), np.float32)
        with torch.inference_mode():
            codes = torch.from_numpy(block & TOKEN_BITS).to(self.device, non_blocking=True)
            views = codes.unfold(0, self.window, 1)  # (places, 1 + S, window)
            starts = torch.from_numpy(sites - self.window // 2).to(self.device, non_blocking=True)
            logits = [self._logits(views[part].transpose(1, 2)) for part in starts.split(self.batch_size)]
            return torch.cat(logits).cpu().numpy()

    def hidden(self, block: np.ndarray, sites: np.ndarray) -> np.ndarray:
        """Return the last layer's vectors at sites, their base visible, mean of both strands, (n, hidden) float32."""
        import torch

        from r2mae_dna.model import complement

        found = []
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            codes = torch.from_numpy(block & TOKEN_BITS).to(self.device)
            views = codes.unfold(0, self.window, 1)
            for part in torch.from_numpy(sites - self.window // 2).to(self.device).split(self.batch_size):
                own = views[part].transpose(1, 2)
                centre = torch.full((len(part), 1), self.window // 2, device=self.device)
                one = self.model.encode(own, centre)[:, 0]
                other = self.model.encode(complement(own).flip(1), self.window - 1 - centre)[:, 0]
                found.append((one.float() + other.float()) / 2)
            empty = torch.zeros(0, self.model.config.n_hidden)
            return torch.cat(found).cpu().numpy() if found else empty.numpy()

    def _logits(self, codes: Any) -> Any:
        import torch

        from r2mae_dna.model import both_strands

        n = len(codes)
        if self.pad and n < self.batch_size:
            codes = torch.cat([codes, codes[-1:].expand(self.batch_size - n, -1, -1)])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = both_strands(self.model, codes)[:n]
        # Beyond float32: infinite on one machine, NaN on another. NaN on each here, so that differences do not warn.
        return logits.masked_fill(~logits.isfinite(), float("nan"))


def open_scorer(
    model: str,
    store: AlignmentStore,
    device: str,
    *,
    window: int | None,
    number_format: str,
    compile: bool,
    batch_size: int,
) -> SiteScorer:
    """Return the scorer that `--model` names.

    Args:
        model: a folder, or `frequencies`.
        store: the alignment.
        device: torch device type.
        window: bases around a site; None: the model's own.
        number_format: `--precision`.
        compile: see `ModelScorer`.
        batch_size: sites per forward pass.
    """
    if model == FREQUENCIES:
        return FrequencyScorer(window or DEFAULT_WINDOW)
    bf16 = precision(number_format, device) == "bf16-mixed"
    return ModelScorer(Path(model), store, device, bf16=bf16, compile=compile, batch_size=batch_size, window=window)

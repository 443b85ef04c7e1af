"""Batches that a data module or a loader of somebody else gives: what a model cannot have meant is refused.

AnnData is checked where it enters; of a data module nothing is known before its batches come. Otherwise a NaN would
spoil all weights, a negative count become NaN on its way, and an unknown batch code end in a crash of CUDA.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from r2mae_core import UserError
from r2mae_singlecell.checks import remedy
from r2mae_singlecell.data.whole import HIGHEST, first_wrong, message


@dataclass(frozen=True)
class ForeignBatches:
    """What batches must hold. On a GPU it costs one reduction over the counts and one wait a batch."""

    who: str
    """How messages call what gives them."""
    genes: Sequence[str]
    """The model's, in its order."""
    n_batches: int
    n_categories: Sequence[int] = ()
    """Of each further categorical covariate."""
    n_continuous: int = 0
    sized: bool = False
    """Whether the model was told to use size factors."""

    def check(self, batch: Any) -> None:
        """Refuse a batch that this model cannot be trained or used on.

        Args:
            batch: a dict of tensors: `X` (cells, genes), dense or sparse, `batch` (cells, 1), and the covariates.

        Raises:
            UserError: something is missing, has another shape, or a value is not what it stands for.
        """
        if not hasattr(batch, "keys"):
            raise UserError(f"{self.who} gives {type(batch).__name__}, not a dict of tensors with 'X' and 'batch'")
        x = self._counts(batch)
        wanted: dict[str, tuple[int, ...]] = {REGISTRY_KEYS.BATCH_KEY: (self.n_batches,)}
        if self.n_categories:
            wanted[REGISTRY_KEYS.CAT_COVS_KEY] = tuple(self.n_categories)
        for key, limits in wanted.items():
            self._check_codes(key, self._column(batch, key, len(x), len(limits)), limits)
        if self.n_continuous:
            covariates = self._column(batch, REGISTRY_KEYS.CONT_COVS_KEY, len(x), self.n_continuous)
            self._refuse(REGISTRY_KEYS.CONT_COVS_KEY, covariates, ~covariates.isfinite(), "not a finite number")
        if self.sized:
            size = self._column(batch, REGISTRY_KEYS.SIZE_FACTOR_KEY, len(x), 1)
            self._refuse(REGISTRY_KEYS.SIZE_FACTOR_KEY, size, ~(size.isfinite() & (size > 0)), "not above 0 and finite")

    def _tensor(self, batch: Any, key: str) -> Tensor:
        if not isinstance(value := batch.get(key), Tensor):
            found = "is missing" if value is None else f"is {type(value).__name__}, not a tensor"
            raise UserError(f"{self.who}: {key!r} {found} in a batch, which has {', '.join(map(repr, batch))}")
        return value

    def _counts(self, batch: Any) -> Tensor:
        x = self._tensor(batch, REGISTRY_KEYS.X_KEY)
        if x.dim() != 2 or x.shape[1] != len(self.genes):
            raise UserError(
                f"{self.who}: 'X' of a batch has the shape {tuple(x.shape)}, not (cells, {len(self.genes):,}), the "
                "genes of its registry"
            )
        strided = x.layout == torch.strided
        values = x if strided else x.values() if x.layout == torch.sparse_csr else x.to_dense()
        if values.is_complex():
            raise UserError(f"{self.who}: 'X' of a batch holds {values.dtype}, not counts")
        # Exactly whole, as counts are, is quick to see; what is not is judged as everywhere else, with tolerance.
        if not bool(((values >= 0) & (values <= HIGHEST) & (values == values.round())).all()):
            host = x.detach().cpu().to_dense().numpy()
            position, what = first_wrong(np.ascontiguousarray(host).reshape(-1))
            if what:
                cell, gene = divmod(position, len(self.genes))
                raise UserError(
                    f"{self.who}, cell {cell:,} of a batch (counted from 0), gene {str(self.genes[gene])!r}: "
                    f"{message(what, host[cell, gene])}; {remedy(what)}"
                )
        return x

    def _column(self, batch: Any, key: str, n_cells: int, width: int) -> Tensor:
        value = self._tensor(batch, key)
        if value.shape != (n_cells, width):
            raise UserError(
                f"{self.who}: {key!r} of a batch has the shape {tuple(value.shape)}, not ({n_cells:,}, {width})"
            )
        return value

    def _check_codes(self, key: str, codes: Tensor, limits: tuple[int, ...]) -> None:
        highest = torch.tensor(limits, device=codes.device)
        what = f"no code of the registry: whole numbers from 0 to {', '.join(str(n - 1) for n in limits)}"
        self._refuse(key, codes, ~((codes >= 0) & (codes < highest) & (codes == codes.long())), what)

    def _refuse(self, key: str, values: Tensor, wrong: Tensor, what: str) -> None:
        if bool(wrong.any()):
            cell, column = wrong.nonzero()[0].tolist()
            value = values[cell, column].item()
            raise UserError(f"{self.who}, cell {cell:,} of a batch (counted from 0): {key!r} is {value:g}, {what}")

"""Muon for the matrices of the layers, AdamW for embeddings, heads, biases and norms: as one optimizer.

Muon makes a matrix's momentum nearly orthogonal before it is added (Jordan et al. 2024). Its step is scaled to the size
of AdamW's (`match_rms_adamw`; Liu et al. 2025, "Muon is scalable for LLM training"), so that one learning rate serves
both.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import UserError, decay_groups


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` with one state, so that schedules and checkpoints see one optimizer.

    Args:
        matrices: two-dimensional parameters, for Muon.
        others: all other parameters, by name.
        lr: of both.
        weight_decay: of both, on what has two dimensions.
        betas: AdamW's.

    Raises:
        UserError: this torch has no Muon.
    """

    def __init__(
        self,
        matrices: list[Tensor],
        others: Iterable[tuple[str, Tensor]],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"torch {torch.__version__} has no Muon; take --optimizer adamw, or torch 2.9 or later")
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.AdamW(decay_groups(others, weight_decay), lr=lr, betas=betas, fused=True)
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, adam)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and the state of the whole."""
        first = 0
        for part in self.parts:
            part.state = self.state
            part.param_groups = self.param_groups[first : first + len(part.param_groups)]
            first += len(part.param_groups)

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do a step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


def muon(model: Any, *, lr: float, weight_decay: float, betas: tuple[float, float]) -> MuonAdamW:
    """Return Muon for the matrices of a transformers model's layers, and AdamW for the rest.

    Embeddings, of words, positions and types, and the head that has the vocabulary's size are AdamW's.

    Raises:
        UserError: this torch has no Muon, or the model no matrix.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if (head := model.get_output_embeddings()) is not None:
        tables.add(id(head.weight))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for _, p in trained if p.ndim == 2 and id(p) not in tables]
    if not matrices:
        raise UserError("the model has no matrices for --optimizer muon; take adamw")
    ours = {id(p) for p in matrices}
    others = [(name, p) for name, p in trained if id(p) not in ours]
    return MuonAdamW(matrices, others, lr=lr, weight_decay=weight_decay, betas=betas)

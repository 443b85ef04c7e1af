"""Documents that do not see each other within a row: attention in blocks, and positions that start anew in each.

A row is running text, so it holds the end of one document and the start of the next. Here the model's own attention
gets a mask that is open within a document alone (and, of layers with a window, within the window), and each document
the positions that it would have alone.
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r2mae_core import UserError
from r2mae_text.model import first_position
from r2mae_text.tokenizer import start_and_end

_TOLERANCE = 1e-4  # another order of sums


@dataclass(frozen=True)
class Isolation:
    """How a model is told where documents end."""

    end_id: int
    """What ends a document."""
    first: int
    """The number of the first position, as the family counts."""
    takes_positions: bool
    window: int | None = None
    """Tokens to each side that layers with a window see; None: there are none."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, length: int) -> "Isolation":
        """Return how to isolate documents in a model, tried on two of them.

        Args:
            model: a masked-LM model, on the CPU.
            tokenizer: its tokenizer.
            length: tokens of a row.

        Raises:
            UserError: the family does not keep them apart.
        """
        ends, config = start_and_end(tokenizer), model.config
        takes = "position_ids" in inspect.signature(model.base_model.forward).parameters
        windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        window = config.sliding_window if windowed else None
        found = cls(ends[1] if ends else 0, first_position(config), takes, window)
        if not found._holds(model, min(length, 256)):
            raise UserError(
                f"{type(model).__name__} does not keep the documents of a row apart with a mask; leave out "
                "--isolate_documents, or take another family, such as roberta, bert or modernbert"
            )
        return found

    def arguments(self, tokens: Tensor) -> dict[str, Any]:
        """Return what the model is given beside the ids of rows, (B, L), whose documents end with `end_id`."""
        number = document_numbers(tokens, self.end_id)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        mask = number[:, None, :, None] == number[:, None, None, :]
        found: dict[str, Any] = {"attention_mask": mask}
        if self.window is not None:
            near = (place[:, None] - place).abs() <= self.window
            found["attention_mask"] = {"full_attention": mask, "sliding_attention": mask & near}
        if self.takes_positions:
            starts = torch.ones_like(number, dtype=torch.bool)
            starts[:, 1:] = number[:, 1:] != number[:, :-1]
            found["position_ids"] = place - torch.where(starts, place, 0).cummax(1).values + self.first
        return found

    @torch.no_grad()
    def _holds(self, model: Any, length: int) -> bool:
        """Return whether two documents in a row have the logits that each has alone.

        New weights hardly look at other tokens. So it is tried in float64, and what the mask leaves of the other
        document must be nothing beside what the other document does without a mask.
        """
        trial, first = copy.deepcopy(model).double().eval(), max(length // 3, 1)
        ordinary = torch.arange(length) * 7 % (model.config.vocab_size - 1)
        tokens = torch.where(ordinary >= self.end_id, ordinary + 1, ordinary)[None]  # all but the end
        tokens[0, first - 1] = self.end_id
        try:
            alone = torch.cat([trial(input_ids=part).logits[0] for part in (tokens[:, :first], tokens[:, first:])])
            together, open_ = (trial(input_ids=tokens, **more).logits[0] for more in (self.arguments(tokens), {}))
        except (ValueError, RuntimeError, TypeError, AttributeError, IndexError):  # the mask has another shape there
            return False
        return bool((together - alone).abs().max() <= _TOLERANCE * (open_ - alone).abs().max())


def document_numbers(tokens: Tensor, end_id: int) -> Tensor:
    """Return which document of its row each token belongs to, (B, L) int64 from 0; the end belongs to its document."""
    ends = tokens == end_id
    return ends.long().cumsum(1) - ends.long()

"""Networks: transformers' masked-LM models by size or type, and their loss at hidden positions alone (paper, C.6)."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r2mae_core import UserError
from r2mae_text.masking import IGNORED
from r2mae_text.tokenizer import vocabulary_size

# The paper's two (C.6) and two for CPUs. RoBERTa's own: 514 positions (the first two are not used), one token type.
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512},
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
    "medium": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
_INNER = ("intermediate_size", "hidden_dim", "d_inner")  # the feed-forward's width, in the words of the families
_DROPOUTS = (
    ("hidden_dropout_prob", "hidden_dropout", "dropout", "mlp_dropout"),
    ("attention_probs_dropout_prob", "attention_dropout"),
)


def dropout_settings(config: Any, rate: float | None) -> dict[str, Any]:
    """Return the settings of a config that make the dropout of hidden states and attention a rate; None: none.

    Raises:
        UserError: the family has no such setting.
    """
    if rate is None:
        return {}
    found = [next((name for name in names if hasattr(config, name)), None) for names in _DROPOUTS]
    if None in found:
        raise UserError(
            f"the dropout of {config.model_type} has names of its own; leave out --dropout and set it with --model_args"
        )
    return {str(name): rate for name in found}


def build_model(
    name: str,
    tokenizer: Any,
    *,
    length: int = 128,
    seed: int = 0,
    model_args: dict[str, Any] | None = None,
    dropout: float | None = None,
    pad_vocab_to: int = 1,
    position_start: str = "default",
) -> Any:
    """Build a masked language model with new weights.

    Args:
        name: one of `SIZES`, or a model type of transformers ("bert", "roberta-prelayernorm", "modernbert" …).
        tokenizer: gives the vocabulary and the special ids.
        length: tokens per row; the model must have as many positions.
        seed: of the initial weights.
        model_args: changes to the transformers config.
        dropout: of hidden states and attention; None: the config's own.
        pad_vocab_to: round the vocabulary up to a multiple.
        position_start: "default", or "sinusoidal": learned position embeddings start as sinusoids.

    Raises:
        UserError: the name or a config key is unknown, a value does not fit, or there are too few positions.
    """
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

    vocabulary = -(-vocabulary_size(tokenizer) // pad_vocab_to) * pad_vocab_to
    settings = {**(_ROBERTA | SIZES[name] if name in SIZES else {}), **(model_args or {})}
    kind = "roberta" if name in SIZES else name
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"unknown model {name!r}; known: {', '.join(SIZES)}, or a model type of transformers (such as bert, "
            f"modernbert, roberta-prelayernorm); a checkpoint is given with --start {name}"
        )
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"pad_token_id": tokenizer.pad_token_id, "vocab_size": vocabulary}
    config = CONFIG_MAPPING[kind]()
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{kind} has a decoder; masked language models are encoders, such as roberta or modernbert")
    settings |= dropout_settings(config, dropout)
    foreign = [key for key in settings if "implementation" in key or key.startswith("_")]  # may fetch and run code
    if unknown := [key for key in settings if not hasattr(config, key)] + foreign:
        raise UserError(f"{kind} has no config {', '.join(unknown)}; see transformers' {type(config).__name__}")
    with _fitting(kind, settings):
        config = type(config)(**{**ids, **settings})
        _check_positions(config, length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _fitting(kind, settings):
            model = AutoModelForMaskedLM.from_config(config, trust_remote_code=False)
    if position_start == "sinusoidal":
        _sinusoidal_positions(model)
    return model


@contextlib.contextmanager
def _fitting(kind: str, settings: dict[str, Any]) -> Iterator[None]:
    """Answer what transformers raises about a config that makes no model."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "Unrecognized configuration class" in reason:
            raise UserError(f"{kind} is not a masked language model of transformers: {reason}") from None
        shown = ", ".join(f"{name} {value!r}" for name, value in settings.items())
        raise UserError(f"there is no {kind} with {shown}: {type(error).__name__}: {reason[:200]}") from None


def usable_positions(config: Any) -> int:
    """Return how many tokens a row may have, special ones included; 10⁹ where there is no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    return 10**9 if positions is None or positions < 1 else positions - first_position(config)


def first_position(config: Any) -> int:
    """Return the number of the first position that a model of this config uses.

    RoBERTa and its relatives count from the padding id on, and say so by the padding of their position embeddings; each
    family in a way of its own. So a model is made, without memory for its weights.
    """
    from transformers import AutoModel

    try:
        with torch.device("meta"), quiet():
            model = AutoModel.from_config(copy.deepcopy(config), trust_remote_code=False)
    except Exception:  # not every family can be made so
        return 0
    for name, module in model.named_modules():
        if name.endswith("embeddings.position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else padding + 1
    return 0


def _check_positions(config: Any, length: int) -> None:
    if length > usable_positions(config):
        raise UserError(
            f"rows of {length} tokens do not fit the model's {usable_positions(config)} positions; lower --length or "
            "set --model_args '{\"max_position_embeddings\": N}'"
        )


def _sinusoidal_positions(model: Any) -> None:
    """Let learned positions start as sinusoids, as large as the word embeddings: neighbours then start similar."""
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if table is None:
        raise UserError(f"{model.config.model_type} has no learned position embeddings; leave out --position_start")
    with torch.no_grad():
        n, width = table.weight.shape
        angles = torch.arange(n)[:, None] * torch.exp(torch.arange(0, width, 2) * (-5.7 / width))  # wavelengths to 1900
        waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
        table.weight.copy_(waves * (model.config.initializer_range * 2**0.5))
        if table.padding_idx is not None:
            table.weight[table.padding_idx] = 0.0


def masked_lm_loss(
    model: Any,
    inputs: Tensor,
    positions: Tensor,
    targets: Tensor,
    attention_mask: Tensor | dict[str, Tensor] | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy over the hidden positions; the head computes no others.

    Equal to what transformers computes from labels over all positions, at a fraction of the head's cost and memory.

    Args:
        model: a transformers masked-LM model.
        inputs: what it sees, (B, L) int64.
        positions: (N,) int64 into the flattened batch.
        targets: (N,) int64; -100: no loss.
        attention_mask: (B, L), 0 at padding; or what transformers takes instead, see `Isolation`; None: all see all.
        position_ids: (B, L), where they are not those of a row; None: the model's own.
    """
    logits = _hidden_logits(model, inputs, positions, attention_mask, position_ids)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return losses / (targets != IGNORED).sum().clamp(min=1)


def masked_lm_losses(
    model: Any,
    inputs: Tensor,
    positions: Tensor,
    targets: Tensor,
    attention_mask: Tensor | dict[str, Tensor] | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of every hidden position, (N,) float32, 0 where the target is -100.

    Arguments are those of `masked_lm_loss`.
    """
    logits = _hidden_logits(model, inputs, positions, attention_mask, position_ids)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")


def _hidden_logits(model: Any, inputs: Tensor, positions: Tensor, attention_mask: Any, position_ids: Any) -> Tensor:
    head, context = _head(model), {"attention_mask": attention_mask}
    if position_ids is not None:  # some families take none
        context["position_ids"] = position_ids
    if head is None:  # the model's own, which computes all positions
        return model(input_ids=inputs, **context).logits.flatten(0, 1)[positions].float()
    hidden = model.base_model(input_ids=inputs, **context).last_hidden_state
    return head(hidden.reshape(-1, hidden.shape[-1])[positions]).float()


def has_masked_head(model: Any) -> bool:
    """Return whether the head can be computed at hidden positions alone; else it is slower, with the same loss."""
    return _head(model) is not None


def _head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what makes logits (N, V) of hidden states (N, d), or None where the family's head is another."""
    if isinstance(head := getattr(model, "lm_head", None), nn.Module):  # RoBERTa and its relatives
        return head
    if isinstance(head := getattr(model, "cls", None), nn.Module):  # BERT and its relatives
        return head
    if isinstance(getattr(model, "decoder", None), nn.Module) and isinstance(getattr(model, "head", None), nn.Module):
        return lambda hidden: model.decoder(model.head(hidden))  # ModernBERT
    if isinstance(getattr(model, "vocab_projector", None), nn.Module):  # DistilBERT
        return lambda hidden: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        )
    return None


def train_flops_per_token(config: Any, length: int, hidden_share: float) -> float:
    """Return floating-point operations of a training step per token of the batch: three times the forward pass.

    Counts matrix products alone: per layer 4 d² for attention's projections, 2 d f for the feed-forward and 2 L d for
    scores and mixing, and the head (d² + d V) on the hidden share, each two operations.

    Args:
        config: of a transformers encoder.
        length: tokens per row.
        hidden_share: share of tokens that reach the head; 1 for a head on all positions.
    """
    d, layers = config.hidden_size, config.num_hidden_layers
    inner = next((value for name in _INNER if (value := getattr(config, name, None))), 4 * d)
    encoder = layers * (4 * d * d + 2 * d * inner + 2 * length * d)
    return 3 * 2 * (encoder + hidden_share * (d * d + d * config.vocab_size))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars, and its report that a head is new or not used, which is intended here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

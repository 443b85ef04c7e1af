"""Held-out masked prediction: is the model better than the column's plurality, and does it use the alignment?"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    check_output,
    derived_seed,
    device_name,
    open_run,
    resolve_device,
    resolved,
    run_identity,
    say,
    show_table,
    spread,
    stamped,
)
from r2mae_dna.data.codes import MASK, TOKEN_BITS
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.evaluate import RANK_BY
from r2mae_dna.masking import hidden_positions
from r2mae_dna.model import AlignmentModel, complement
from r2mae_dna.options import Probe
from r2mae_dna.weights import load_model

BATCH_SIZE = 64
"""Windows per forward pass; the hidden positions depend on it."""


def plurality_log_probabilities(codes: Tensor, smoothing: Tensor, background: Tensor) -> Tensor:
    """Return log-probabilities of A, C, G, T from the other species' letters in the column.

    (count + smoothing · background) / (depth + smoothing): the column's plurality has the largest.

    Args:
        codes: (…, 1 + S) tokens.
        smoothing: scalar; fitted on training windows, so that the predictor is as good as it can be.
        background: (4,) base frequencies of the training reference.
    """
    letters = torch.arange(1, 5, dtype=torch.uint8, device=codes.device)
    counts = (codes[..., 1:, None] == letters).sum(-2).float()
    return ((counts + smoothing * background) / (counts.sum(-1, keepdim=True) + smoothing)).log()


def fit_plurality(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smoothing of a grid that predicts the training reference best, and the base frequencies."""
    labels = codes[..., 0].flatten().long() - 1
    background = torch.bincount(labels, minlength=4).float() / len(labels)
    grid = torch.logspace(-2, 1, 25)
    losses = [
        F.nll_loss(plurality_log_probabilities(codes, smoothing, background).flatten(0, -2), labels)
        for smoothing in grid
    ]
    return grid[int(torch.stack(losses).argmin())], background


def shuffle_alignment(codes: Tensor, generator: torch.Generator) -> Tensor:
    """Return windows whose other species are permuted over positions: columns stay whole, their places are lost."""
    order = torch.rand(codes.shape[:2], generator=generator, device=codes.device).argsort(1)
    others = codes[..., 1:].gather(1, order[..., None].expand(-1, -1, codes.shape[-1] - 1))
    return torch.cat([codes[..., :1], others], -1)


@torch.inference_mode()
def probe_model(
    model: AlignmentModel,
    train: WindowSet,
    held_out: WindowSet,
    *,
    ratios: tuple[float, ...],
    max_windows: int,
    batch_size: int,
    device: str,
) -> dict[str, float]:
    """Return metrics of masked prediction on held-out windows; hidden bases show the mask and have equal weights.

    Args:
        model: in evaluation mode.
        train: windows on which the plurality predictor is fitted.
        held_out: windows to evaluate on, evenly spread, at most `max_windows`.
        ratios: fixed mask ratios; each window has its own positions, the same for every model.
        max_windows: see above.
        batch_size: windows per forward pass.
        device: torch device type.

    Returns:
        per ratio, as "name@ratio": cross-entropy ("loss") of the model, of the plurality, of the model on a shuffled
        alignment; accuracy of the model and of the plurality; and the mean total variation between the two strands'
        predictions.
    """
    model = model.to(device).eval()
    smoothing, background = fit_plurality(_tokens(train, max_windows, "cpu"))
    smoothing, background = smoothing.to(device), background.to(device)
    codes = _tokens(held_out, max_windows, device)
    sums: dict[str, float] = {}
    for part, ratio, generator in _batches(codes, ratios, batch_size):
        for name, value in _batch(model, part, ratio, generator, smoothing, background).items():
            key = f"{name}@{ratio:g}"
            sums[key] = sums.get(key, 0.0) + value * len(part)
    return {name: total / len(codes) for name, total in sums.items()}


@torch.inference_mode()
def probe_plurality(
    train: WindowSet, held_out: WindowSet, *, ratios: tuple[float, ...], max_windows: int, batch_size: int
) -> dict[str, float]:
    """Return the plurality's part of what `probe_model` returns, as "loss@ratio" and "accuracy@ratio"; see there."""
    smoothing, background = fit_plurality(_tokens(train, max_windows, "cpu"))
    codes = _tokens(held_out, max_windows, "cpu")
    sums: dict[str, float] = {}
    for part, ratio, generator in _batches(codes, ratios, batch_size):
        _, positions, labels = _hide(part, ratio, generator)
        for name, value in _plurality(part, positions, labels, smoothing, background).items():
            sums[f"{name}@{ratio:g}"] = sums.get(f"{name}@{ratio:g}", 0.0) + value * len(part)
    return {name: total / len(codes) for name, total in sums.items()}


def _plurality(
    codes: Tensor, positions: Tensor, labels: Tensor, smoothing: Tensor, background: Tensor
) -> dict[str, float]:
    chosen = codes.gather(1, positions[..., None].expand(-1, -1, codes.shape[-1]))
    column = plurality_log_probabilities(chosen, smoothing, background)
    return {"loss": _loss(column, labels), "accuracy": (column.argmax(-1) == labels).float().mean().item()}


def _tokens(windows: WindowSet, limit: int, device: str) -> Tensor:
    return (windows.batch(spread(len(windows), limit))["codes"] & TOKEN_BITS).to(device)


def _batch(
    model: AlignmentModel,
    codes: Tensor,
    ratio: float,
    generator: torch.Generator,
    smoothing: Tensor,
    background: Tensor,
) -> dict[str, float]:
    seen, positions, labels = _hide(codes, ratio, generator)
    own = _predict(model, seen, positions)
    turned = complement(seen).flip(1)
    other = _predict(model, turned, codes.shape[1] - 1 - positions).flip(-1)
    plurality = _plurality(codes, positions, labels, smoothing, background)
    shuffled = _predict(model, shuffle_alignment(seen, generator), positions)
    return {
        "loss": _loss(own, labels),
        "plurality_loss": plurality["loss"],
        "shuffled_loss": _loss(shuffled, labels),
        "accuracy": (own.argmax(-1) == labels).float().mean().item(),
        "plurality_accuracy": plurality["accuracy"],
        "strand_difference": ((own.exp() - other.exp()).abs().sum(-1) / 2).mean().item(),
    }


def _hide(codes: Tensor, ratio: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens with the mask at hidden positions, the positions (B, P), and the hidden bases, from 0."""
    positions = hidden_positions((codes.shape[0], codes.shape[1]), ratio, generator)
    seen = codes.clone()
    seen[..., 0].scatter_(1, positions, MASK)
    return seen, positions, codes[..., 0].gather(1, positions).long() - 1


def _predict(model: AlignmentModel, codes: Tensor, positions: Tensor) -> Tensor:
    return model(codes, positions)[..., 1:5].float().log_softmax(-1)


def _loss(log_probabilities: Tensor, labels: Tensor) -> float:
    return F.nll_loss(log_probabilities.flatten(0, 1), labels.flatten()).item()


@torch.inference_mode()
def held_out_loss(
    model: AlignmentModel, held_out: WindowSet, *, ratios: Sequence[float], max_windows: int, device: str
) -> dict[float, float]:
    """Return ratio → the model's loss, as `probe_model` computes it: what every pretraining records."""
    model = model.to(device).eval()
    codes, sums = _tokens(held_out, max_windows, device), dict.fromkeys(ratios, 0.0)
    for part, ratio, generator in _batches(codes, ratios, BATCH_SIZE):
        seen, positions, labels = _hide(part, ratio, generator)
        sums[ratio] += _loss(_predict(model, seen, positions), labels) * len(part)
    return {ratio: total / len(codes) for ratio, total in sums.items()}


def _batches(codes: Tensor, ratios: Iterable[float], size: int) -> Iterator[tuple[Tensor, float, torch.Generator]]:
    """Yield (windows, ratio, source of their masks), the same for every model."""
    for start in range(0, len(codes), size):
        for ratio in dict.fromkeys(ratios):
            generator = torch.Generator(codes.device).manual_seed(derived_seed(0, "probe", start))
            yield codes[start : start + size], ratio, generator


def probe(config: Probe) -> RunFolder:
    """Evaluate a model on held-out windows; the records are in the run folder's results.

    Raises:
        UserError: the model or the windows are missing, or do not fit each other.
    """
    device = resolve_device(config.device)
    if config.out is not None:
        check_output(config.out, [config.model, config.data])
    pretrained = load_model(config.model)
    train, held_out = WindowSet(config.data), WindowSet(config.data, config.split)
    pretrained.check_species(held_out.info.species, held_out.info.n_species, str(config.data))
    if pretrained.window not in (None, held_out.info.window):
        raise UserError(
            f"{config.model} was trained on windows of {pretrained.window} bases, and those of {config.data} have "
            f"{held_out.info.window}; cut windows of the model's length with r2mae-dna prepare --window"
        )
    run_of = (config.model / "config.yaml").exists()  # else a published model
    scheme, seed = run_identity(config.model, "dna") if run_of else (config.model.resolve().name, 0)
    facts = {"model_digest": pretrained.digest, "windows_digest": held_out.info.digest}
    models = {config.model: (scheme, seed)}
    with open_run("r2mae-dna", "probe", config.out, resolved(config), facts=facts, models=models) as run:
        values = probe_model(
            pretrained.model, train, held_out, ratios=config.ratios, max_windows=config.max_windows,
            batch_size=config.batch_size, device=device,
        )  # fmt: skip
        task, n = config.data.resolve().name, min(config.max_windows, len(held_out))
        records = [
            Record(task, f"{metric}@{ratio:g}", values[f"{key}@{ratio:g}"], row, of_seed, n, config.split)
            for ratio in config.ratios
            for row, of_seed, metric, key in _rows(scheme, seed)
        ]
        run.write_results(stamped(records, device_name(device)))
        return run


def probe_command(config: Probe) -> None:
    """`r2mae-dna probe`."""
    run = probe(config)
    records = run.results()
    show_table(run, records, RANK_BY, f"{records[0].n:,} {config.split} windows on {records[0].device}")
    say("plurality: the other species' letters at the base, smoothing fitted. shuffled: columns permuted in windows.")
    say("strand_difference: total variation between the predictions on the two strands.")
    say(f"Done: {run.path} (results.json, table.md)")


def _rows(scheme: str, seed: int) -> list[tuple[str, int, str, str]]:
    """Return (row of the table, its seed, metric, name in `probe_model`'s result)."""
    return [
        (scheme, seed, "loss", "loss"),
        (scheme, seed, "accuracy", "accuracy"),
        (scheme, seed, "strand_difference", "strand_difference"),
        ("plurality of the column", 0, "loss", "plurality_loss"),
        ("plurality of the column", 0, "accuracy", "plurality_accuracy"),
        (f"{scheme}, shuffled alignment", seed, "loss", "shuffled_loss"),
    ]

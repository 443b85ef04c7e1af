"""Held-out masked prediction: is the model better than the column's plurality, and does it use the alignment?"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import Record, RunFolder, compare
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.randomness import derived_seed
from r2mae_core.run_folder import default_run_path, git_commit
from r2mae_dna.codes import MASK, TOKEN_BITS
from r2mae_dna.masking import hidden_positions
from r2mae_dna.model import AlignmentModel, complement
from r2mae_dna.options import Probe
from r2mae_dna.weights import load_model
from r2mae_dna.windows import WindowSet


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
    """Return the smoothing that predicts the training reference best, out of a grid, and its base frequencies."""
    labels = codes[..., 0].flatten().long() - 1
    background = torch.bincount(labels, minlength=4).float() / len(labels)
    grid = torch.logspace(-2, 1, 25)
    losses = [
        F.nll_loss(plurality_log_probabilities(codes, smoothing, background).flatten(0, -2), labels)
        for smoothing in grid
    ]
    return grid[int(torch.stack(losses).argmin())], background


def shuffle_alignment(codes: Tensor, generator: torch.Generator) -> Tensor:
    """Return windows whose other species stand at other positions: columns stay whole, their place is lost."""
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
    """Return metrics of masked prediction on held-out windows; hidden bases show the mask, and weigh the same.

    Args:
        model: in evaluation mode.
        train: windows on which the plurality predictor is fitted.
        held_out: windows to judge on, evenly spread, at most `max_windows`.
        ratios: fixed mask ratios; each window has its own positions, the same for every model.
        max_windows: see above.
        batch_size: windows per forward.
        device: torch device type.

    Returns:
        per ratio: cross-entropy of the model, of the plurality, of the model on a shuffled alignment; accuracy of
        the model and of the plurality; and the mean total variation between the two strands' predictions.
    """
    model = model.to(device).eval()
    smoothing, background = fit_plurality(_tokens(train, max_windows, "cpu"))
    smoothing, background = smoothing.to(device), background.to(device)
    codes = _tokens(held_out, max_windows, device)
    sums: dict[str, float] = {}
    for start in range(0, len(codes), batch_size):
        part = codes[start : start + batch_size]
        for ratio in ratios:
            generator = torch.Generator(device).manual_seed(derived_seed(0, "probe", start))
            for name, value in _batch(model, part, ratio, generator, smoothing, background).items():
                key = f"{name}@{ratio:g}"
                sums[key] = sums.get(key, 0.0) + value * len(part)
    return {name: total / len(codes) for name, total in sums.items()}


def _tokens(windows: WindowSet, limit: int, device: str) -> Tensor:
    rows = np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(np.int64)
    return (windows.batch(rows)["codes"] & TOKEN_BITS).to(device)


def _batch(
    model: AlignmentModel,
    codes: Tensor,
    ratio: float,
    generator: torch.Generator,
    smoothing: Tensor,
    background: Tensor,
) -> dict[str, float]:
    positions = hidden_positions((codes.shape[0], codes.shape[1]), ratio, generator)
    labels = codes[..., 0].gather(1, positions).long() - 1
    seen = codes.clone()
    seen[..., 0].scatter_(1, positions, MASK)

    def predict(windows: Tensor, where: Tensor) -> Tensor:
        return model(windows, where)[..., 1:5].float().log_softmax(-1)

    own = predict(seen, positions)
    turned = complement(seen).flip(1)
    other = predict(turned, codes.shape[1] - 1 - positions).flip(-1)
    chosen = codes.gather(1, positions[..., None].expand(-1, -1, codes.shape[-1]))
    column = plurality_log_probabilities(chosen, smoothing, background)
    shuffled = predict(shuffle_alignment(seen, generator), positions)

    def loss(log_probabilities: Tensor) -> float:
        return F.nll_loss(log_probabilities.flatten(0, 1), labels.flatten()).item()

    return {
        "cross_entropy": loss(own),
        "plurality_cross_entropy": loss(column),
        "shuffled_cross_entropy": loss(shuffled),
        "accuracy": (own.argmax(-1) == labels).float().mean().item(),
        "plurality_accuracy": (column.argmax(-1) == labels).float().mean().item(),
        "strand_difference": ((own.exp() - other.exp()).abs().sum(-1) / 2).mean().item(),
    }


def probe_command(config: Probe) -> None:
    """`r2mae-dna probe`."""
    device = resolve_device(config.device)
    pretrained = load_model(config.model)
    train, held_out = WindowSet(config.windows), WindowSet(config.windows, config.split)
    pretrained.check_species(held_out.info.species, held_out.info.n_species, str(config.windows))
    run = RunFolder(config.out or default_run_path("r2mae-dna", "probe"), resolved(config))
    values = probe_model(
        pretrained.model,
        train,
        held_out,
        ratios=config.ratios,
        max_windows=config.max_windows,
        batch_size=config.batch_size,
        device=device,
    )
    n, git, device_text = min(config.max_windows, len(held_out)), git_commit(), device_name(device)
    records = [
        Record(
            f"ratio {ratio:g}", metric, values[f"{key}@{ratio:g}"], scheme, 0, n, config.split, None, device_text, git
        )
        for ratio in config.ratios
        for scheme, metric, key in _rows(config.model.name)
    ]
    run.write_results(records)
    for ratio in config.ratios:
        of_ratio = [record for record in records if record.task == f"ratio {ratio:g}"]
        say(compare(of_ratio).rich(f"{n:,} {config.split} windows, ratio {ratio:g}, on {device_text}"))
    say(
        "plurality: letters of the other species at the base, smoothing fitted. shuffled: columns moved within windows."
    )
    say("strand_difference: total variation between the predictions on the two strands.")
    say(f"Done: {run.path}")


def _rows(name: str) -> list[tuple[str, str, str]]:
    """Return (row of the table, metric, name in `probe_model`'s result)."""
    shuffled = f"{name}, shuffled alignment"
    return [
        (name, "cross_entropy", "cross_entropy"),
        (name, "accuracy", "accuracy"),
        (name, "strand_difference", "strand_difference"),
        ("plurality of the column", "cross_entropy", "plurality_cross_entropy"),
        ("plurality of the column", "accuracy", "plurality_accuracy"),
        (shuffled, "cross_entropy", "shuffled_cross_entropy"),
    ]

"""Is a training on the GPU the training that the CPU makes? A step in float32, bfloat16, waits for the device, resume.

- A step: the same weights, batch and masks on both; loss and gradient agree, and so do the weights after AdamW.
- bfloat16: its loss on the device is near that of float32.
- Waits: a step reads nothing from the device, as torch's own detector sees it; steps that log do, and are left out.
- Resume: a training that breaks off and goes on ends with the same bits. If not, a second training in one go says
  whether the device repeats itself at all.
"""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from networks import CHECKED, RATIOS, TINY, DrawnOnCpu, Step, exact_float32, pretraining
from rows import Part, main

from r2mae_core import run_pretraining

LOSS, GRADIENT, UPDATE, BF16 = 1e-5, 1e-3, 0.02, 0.02
"""Bounds of the relative distances: of the loss, the gradient, AdamW's first update, and bfloat16's loss."""


def check(part: Part) -> None:
    """Make the four checks."""
    size = (TINY if part.tiny else CHECKED)[part.package]
    modality, config = pretraining(part.package, size, part.home, part.tiny, device=part.device)
    compare_step(part, modality, config, size.name)
    count_waits(part, modality, config)
    resume(part, modality, config)


def first_step(
    step: Step, ratio: float, bf16: bool = False
) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return loss, gradients and weights after one step of AdamW, on the CPU in float64."""
    module, device = step.module, next(step.module.parameters()).device
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    with DrawnOnCpu(7), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = step.loss(ratio, torch.Generator(device).manual_seed(7))
    loss.backward()
    named = [(name, p) for name, p in module.named_parameters() if p.grad is not None]
    gradients = {name: p.grad.detach().double().cpu() for name, p in named if p.grad is not None}
    optimizer.step()
    return loss.item(), gradients, {name: p.detach().double().cpu() for name, p in named}


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], scale: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference over the norm of `scale`, of all tensors together."""
    difference = sum(((one[name] - two[name]) ** 2).sum().item() for name in one)
    return (difference / sum((scale[name] ** 2).sum().item() for name in one)) ** 0.5


def compare_step(part: Part, modality: Any, config: Any, name: str) -> None:
    """Compare a step on the device with the CPU's."""
    ratio, start = RATIOS[part.package], Step.build(modality, config, "cpu")
    before = {name: p.detach().double() for name, p in copy.deepcopy(start.module).named_parameters()}
    loss, gradient, weights = first_step(start, ratio)
    with exact_float32():
        there, its_gradient, its_weights = first_step(Step.build(modality, config, part.device), ratio)
    if gradient.keys() != its_gradient.keys():
        part.add("gradients", "of other weights than on the CPU", met=False)
        return
    note = f"{name}, loss {loss:.6f}"
    part.at_most("loss in float32, relative distance to the CPU's", abs(there / loss - 1), LOSS, note)
    part.at_most("gradient, relative distance", distance(gradient, its_gradient, gradient), GRADIENT)
    updates = {name: weights[name] - before[name] for name in weights}
    part.at_most("AdamW's first update, relative distance", distance(weights, its_weights, updates), UPDATE)
    low, *_ = first_step(Step.build(modality, config, part.device), ratio, bf16=True)
    part.at_most("loss in bfloat16, relative distance to float32's", abs(low / there - 1), BF16)


class Waits(pl.Callback):
    """Counts the waits for the device in steps that do not log, the first steps left out."""

    def __init__(self, warm: int) -> None:
        self.warm, self.steps, self.found = warm, 0, list[str]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.watched = trainer.global_step >= self.warm and not pl_module.is_log_step()
        if self.watched:
            self.caught = warnings.catch_warnings(record=True)
            self.list = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.watched:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            self.steps += 1
            own = [w for w in self.list if "synchroniz" in str(w.message)]
            self.found += [f"{Path(w.filename).name}:{w.lineno}" for w in own]


class StopAt(pl.Callback):
    """Break off before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


def with_callback(modality: Any, callback: pl.Callback) -> Any:
    """Return the modality with one callback more."""

    class Watched(modality):
        def callbacks(self, run: Any) -> list[pl.Callback]:
            return [*super().callbacks(run), callback]

    return Watched


def lengthened(config: Any, modality: Any, steps: int) -> Any:
    """Return the options of a training of at least so many steps."""
    if hasattr(config, "steps"):
        return replace(config, steps=steps)
    task = modality(config)
    return replace(config, epochs=-(-steps // max(task.n_samples // task.batch_size, 1)))


def count_waits(part: Part, modality: Any, config: Any) -> None:
    """Train a few steps and count the waits in them."""
    if part.device != "cuda":
        part.add("waits for the device in a step", "not checked on a CPU")
        return
    waits = Waits(warm=3)
    run_pretraining(
        with_callback(modality, waits),
        replace(lengthened(config, modality, 12), log_every=1000, validate_every=1000, out=part.home / "waits"),
    )
    where = f"{waits.steps} steps; " + ", ".join(sorted(set(waits.found)))[:200]
    met = waits.steps > 0 and not waits.found
    part.add(
        "waits for the device in a step", len(waits.found) / max(waits.steps, 1), target="none", met=met, note=where
    )


def resume(part: Part, modality: Any, config: Any) -> None:
    """Compare an interrupted and resumed training with one in one go."""
    from safetensors.torch import load_file

    config = replace(lengthened(config, modality, 6), checkpoint_every=2)

    def weights(name: str) -> dict[str, torch.Tensor]:
        run = run_pretraining(modality, replace(config, out=part.home / name))
        return load_file(next((run.path / "model").rglob("*.safetensors")))

    try:
        run_pretraining(with_callback(modality, StopAt(3)), replace(config, out=part.home / "resumed"))
    except InterruptedError:
        pass
    else:
        part.add("resume", "the training did not break off", met=False)
        return
    whole, resumed = weights("whole"), weights("resumed")
    part.add(*equality("an interrupted training ends with the same bits", whole, resumed))
    if not same(whole, resumed):
        part.add(*equality("two trainings in one go end with the same bits", whole, weights("again")))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Return whether two models have the same bits."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def equality(what: str, one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> tuple[str, str]:
    """Return a row's name and value."""
    if same(one, two):
        return what, "yes"
    largest = max((one[name].double() - two[name].double()).abs().max().item() for name in one.keys() & two.keys())
    return what, f"no: weights differ by up to {largest:.1e}"


if __name__ == "__main__":
    main("correct", check)

"""The prepared run on a GPU, tried on the CPU in its smallest size."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

GPU = Path(__file__).parent.parent / "benchmarks" / "gpu"
PARTS = {
    "text": {"correct", "fast", "worth"},
    "vision": {"correct", "fast", "worth"},
    "dna": {"correct", "fast"},
    "singlecell": {"correct", "fast"},
}


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script of the folder."""
    monkeypatch.syspath_prepend(str(GPU))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.timeout(600)
@pytest.mark.parametrize("package", PARTS)
def test_every_part_runs_on_a_cpu(package, tmp_path):
    words = ["--device", "cpu", "--tiny", "--minutes", "60", "--only", package, "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, GPU / "run.py", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    found = json.loads((tmp_path / "results.json").read_text())
    assert {row["part"] for row in found["rows"]} == PARTS[package]
    checks = [row for row in found["rows"] if row["part"] == "correct"]
    assert sum(row["met"] is True for row in checks) == 4  # loss, gradient, update, bfloat16
    assert [row["value"] for row in checks if "interrupted" in row["what"]] == ["yes"]
    assert not [words for words in found["said"].values() if words.startswith(("FAILED", "cut off", "left out"))]
    assert all(row["value"] > 0 for row in found["rows"] if row["part"] == "fast")
    assert "| correct | " in (tmp_path / "results.md").read_text()
    if package == "singlecell":  # a peer's table
        assert "scvi-tools' likelihood" in found["said"]["peer-singlecell"]


def test_without_a_gpu_nothing_is_run(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run(
        [sys.executable, GPU / "run.py", "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "torch sees no GPU here" in done.stderr


def test_a_part_that_is_cut_off_keeps_its_rows(script, tmp_path):
    rows = script("rows")
    part = rows.Part("fast", "text", "cpu", True, tmp_path, tmp_path / "lines", 0.0)
    part.add("a", 1.0, "tokens/s")
    part.at_most("b", float("nan"), 1.0)
    part.at_most("c", 2.0, 1.0)
    part.at_most("d", 1.0, 1.0)
    with part.lines.open("a") as file:
        file.write('{"part": "fa')
    assert [(row.what, row.met) for row in rows.read_rows(part.lines)] == [
        ("a", None), ("b", False), ("c", False), ("d", True),
    ]  # fmt: skip


def test_masks_are_the_same_wherever_they_are_drawn(script):
    networks = script("networks")

    def draw(generator: torch.Generator) -> list[torch.Tensor]:
        with networks.DrawnOnCpu(3):
            one = torch.rand(4, 5, generator=generator, device="cpu")
            return [one, torch.randint(9, (7,), generator=generator, device="cpu")]

    first, second = draw(torch.Generator().manual_seed(1)), draw(torch.Generator().manual_seed(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], torch.rand(4, 5, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("fault", ["weights", "loss"])
def test_a_device_that_computes_something_else_is_seen(script, tmp_path, monkeypatch, fault):
    """The step "on the device" is made wrong by one part in a thousand."""
    networks, correct, rows = script("networks"), script("correct"), script("rows")
    part = rows.Part("correct", "vision", "cpu", True, tmp_path, tmp_path / "lines", 0.0)
    modality, config = networks.pretraining("vision", networks.TINY["vision"], tmp_path, True, device="cpu")
    honest, calls = correct.first_step, []

    def faulty(step, ratio, bf16=False):
        calls.append(bf16)
        if len(calls) == 2:
            if fault == "loss":
                loss, *rest = honest(step, ratio, bf16)
                return (loss * 1.001, *rest)
            with torch.no_grad():
                for parameter in step.module.parameters():
                    parameter.mul_(1.001)
        return honest(step, ratio, bf16)

    monkeypatch.setattr(correct, "first_step", faulty)
    correct.compare_step(part, modality, config, "tiny")
    met = {row.what: row.met for row in rows.read_rows(part.lines)}
    assert met["loss in float32, relative distance to the CPU's"] is False


def test_the_sheets_hold_the_images(script, tmp_path, monkeypatch):
    import numpy as np

    sheets, worth = script("cifar10_sheets"), script("worth")
    there, packed = tmp_path / "there", tmp_path / "packed"
    there.mkdir()
    packed.mkdir()
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:, 0] = np.arange(10_000) % 10
    rows[:, 1:] = (np.arange(10_000) % 251)[:, None]  # every image has its own grey
    for name in ("data_batch_1", "test_batch"):
        rows.tofile(there / f"{name}.bin")
    (there / "batches.meta.txt").write_text("a\n")
    sheets.pack(there, packed)
    monkeypatch.setattr(worth, "CIFAR10", packed)
    back = np.fromfile(worth.unpacked_cifar10(tmp_path / "home") / "test_batch.bin", np.uint8).reshape(10_000, 3073)
    assert np.array_equal(back[:, 0], rows[:, 0])
    assert np.abs(back[:, 1:].astype(int) - rows[:, 1:]).max() <= 3

"""What two ranks, a resumed run and another seed see: masks, dropout, validation masks, checkpoints."""

import pytest
import torch

from r2mae_core import (
    BatchOrder,
    Fixed,
    InOrder,
    ResumableLoader,
    RunFolder,
    Uniform,
    UserError,
    derived_seed,
    fit,
    read_weights,
)
from tiny import TinyMAE, samples, start


class Traced(TinyMAE):
    """Notes the first dropout draw and the masks, in training and in validation."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = {"dropout": [], "masks": [], "validation": []}

    def masked_loss(self, batch, draw):
        if self.training:
            self.seen["dropout"].append(torch.nn.functional.dropout(torch.ones(16)).tolist())
            self.seen["masks"].append(draw.generator.get_state().sum().item())
        else:
            self.seen["validation"].append((draw.ratio, draw.generator.get_state().sum().item()))
        return super().masked_loss(batch, draw)


def run_traced(folder, devices=1, accumulate=1, steps=3):
    data, order = samples(), BatchOrder(96, 8)
    module = Traced(Uniform(0.2, 0.8, seed=1), seed=3, validation_ratios=(0.2, 0.6))

    def fetch(indices):
        return data[torch.from_numpy(indices)]

    fit(
        module, ResumableLoader(order, fetch), RunFolder(folder, {}), max_steps=steps, device="cpu", devices=devices,
        strategy="ddp" if devices > 1 else "auto", accumulate_grad_batches=accumulate, validate_every=steps,
        validation_loader=InOrder(range(32), 8, fetch), progress=False,
    )  # fmt: skip
    return module.seen


if __name__ == "__main__":  # one rank
    import sys
    from pathlib import Path

    out = Path(sys.argv[1])
    found = run_traced(out, devices=2)
    torch.save(found, out / f"seen{torch.distributed.get_rank()}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    import os
    from pathlib import Path

    out = tmp_path_factory.mktemp("ranks")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(out)]
    process = start(*words, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return [torch.load(out / f"seen{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("what", ["dropout", "masks"])
def test_two_ranks_draw_what_one_that_accumulates_draws_in_turn(ranks, tmp_path, what):
    """And so never the same as each other: every rank and every step has its own."""
    alone = run_traced(tmp_path / "one", accumulate=2)[what]
    assert alone == [seen for step in zip(*(rank[what] for rank in ranks), strict=True) for seen in step]
    assert len({str(seen) for seen in alone}) == len(alone) == 6


def test_validation_masks_of_two_ranks_are_those_of_one(ranks, tmp_path):
    alone = run_traced(tmp_path / "one")["validation"]
    in_turn = [ranks[i % 2]["validation"][i // 2 * 2 + ratio] for i in range(4) for ratio in range(2)]
    assert alone == in_turn
    assert len(set(alone)) == 4 * 2  # four batches, each with its own masks, at two ratios
    expected = [torch.Generator().manual_seed(derived_seed(0, "validation", i)).get_state().sum() for i in range(4)]
    assert [state for ratio, state in alone if ratio == 0.2] == expected


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Poisoned(TinyMAE):
        def on_train_batch_end(self, *_):
            if self.global_step == 4:
                with torch.no_grad():
                    self.blocks[0][0].bias[0] = float("inf")

        def check_finite(self):
            """The loss notices nothing."""

    module = Poisoned(Fixed(0.5), seed=3)
    data = samples()
    loader = ResumableLoader(BatchOrder(96, 8), lambda indices: data[torch.from_numpy(indices)])
    run = RunFolder(tmp_path / "run", {})
    with pytest.raises(UserError, match=r"is not finite after step 5"):
        fit(module, loader, run, max_steps=8, checkpoint_every=2, device="cpu", progress=False)
    assert all(value.isfinite().all() for value in read_weights(run.last_checkpoint).values())

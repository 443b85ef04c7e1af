"""`r2mae-vision demo`: every scheme side by side on small real images, in one stack."""

import time

from r2mae_core import Fixed, RunFolder, compare, scheme, with_seed
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.files import write_text
from r2mae_core.run_folder import default_run_path
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.mnist.data import load_images
from r2mae_vision.mnist.evaluate import evaluate_members
from r2mae_vision.mnist.plots import plot_demo
from r2mae_vision.mnist.pretrain import Member, pretrain_members
from r2mae_vision.options import Demo

# The paper's vision schemes (table 1), and the fixed ratios that draw the curve.
SCHEMES = {
    "fixed 0.75": scheme("fixed", "vision"),
    "low 0.5": scheme("low", "vision"),
    "high 0.9": scheme("high", "vision"),
    "mdlm": scheme("mdlm", "vision"),
    "dynamic": scheme("dynamic", "vision"),
    "r2mae": scheme("r2mae", "vision"),
    "r2mae+dynamic": scheme("r2mae+dynamic", "vision"),
}
CURVE = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)


def demo(config: Demo) -> RunFolder:
    """Pretrain, evaluate, print the table, draw the figure, and return the run folder."""
    start = time.perf_counter()
    device = resolve_device(config.device)
    data = load_images(config.data, config.root, config.download)
    run = RunFolder(config.out or default_run_path("r2mae-vision", "demo"), resolved(config))
    samplers = SCHEMES | {f"fixed {ratio:g}": Fixed(ratio) for ratio in CURVE}
    members = [
        Member(name, with_seed(sampler, seed), seed)
        for seed in range(config.n_seeds)
        for name, sampler in samplers.items()
    ]
    say(
        f"{len(members)} masked autoencoders ({len(samplers)} ratio schemes × {config.n_seeds} seeds) on "
        f"{len(data.train_images)} images of {data.name}, all trained together on {device_name(device)}"
    )
    model = pretrain_members(
        data,
        members,
        run,
        hidden=config.hidden,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        device=device,
        progress=config.progress,
    )
    names = [member.scheme for member in members]
    records = evaluate_members(
        model, data, names, epochs=config.epochs, pretrain_seconds=time.perf_counter() - start, device=device
    )
    run.write_results(records)
    table = compare((record for record in records if record.scheme in SCHEMES), RANK_BY)
    write_text(run.path / "table.md", table.markdown())
    figure = run.save_figure("demo.png", plot_demo(records, model, data.to(device), names, list(SCHEMES)))
    say(table.rich(f"{data.name}: {len(data.test_images)} test images"))
    say("probe_accuracy: linear probe on the frozen second layer. effective_rank: dimensions that the embedding uses.")
    say("mse@r: reconstruction error when a fraction r is hidden, with the same masks for every scheme.")
    say(f"Figure: {figure}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
    return run

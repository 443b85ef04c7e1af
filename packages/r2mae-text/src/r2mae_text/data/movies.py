"""The bundled sentences: 10,568 human-rated sentences of film reviews, positive or negative.

Made from the vaderSentiment source distribution (see `movies.json` beside the data) by

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m r2mae_text.data.movies vaderSentiment-3.3.2.tar.gz
"""

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np

from r2mae_core import atomic_path, reading, write_text

HERE = Path(__file__).parent
DATA, PROVENANCE = HERE / "movies.tsv.gz", HERE / "movies.json"
N_TRAIN = 9_000
_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def read_movies() -> dict[str, list[tuple[str, int]]]:
    """Return {"train": 9,000, "validation": 1,568} of (sentence, label); 1 is positive."""
    splits: dict[str, list[tuple[str, int]]] = {"train": [], "validation": []}
    with reading(DATA, "the bundled sentences; install the package again"):
        for line in gzip.decompress(DATA.read_bytes()).decode().splitlines():
            split, label, sentence = line.split("\t")
            splits[split].append((sentence, int(label)))
    return splits


def make_movies(sdist: Path) -> bytes:
    """Return the bundled file's content from the source distribution: the sign of the mean rating is the label.

    Sentences with a mean of exactly 0 are left out. The split is ours: drawn once with seed 0. Nothing is unpacked.
    """
    with reading(sdist, "vaderSentiment's source distribution"), tarfile.open(sdist) as outer:
        member = next(m for m in outer.getmembers() if m.name.endswith(_INNER))
        inner_bytes = outer.extractfile(member)
        assert inner_bytes is not None
        with tarfile.open(fileobj=io.BytesIO(inner_bytes.read())) as inner:
            text = inner.extractfile(_FILE)
            assert text is not None
            lines = text.read().decode("utf-8", errors="replace").splitlines()
    rated = [(float(rating), " ".join(sentence.split())) for _, rating, sentence in (row.split("\t") for row in lines)]
    rated = [(rating, sentence) for rating, sentence in rated if rating != 0]
    order = np.random.default_rng(0).permutation(len(rated))
    rows = [
        f"{'train' if turn < N_TRAIN else 'validation'}\t{int(rated[i][0] > 0)}\t{rated[i][1]}"
        for turn, i in enumerate(order)
    ]
    return gzip.compress(("\n".join(rows) + "\n").encode(), 9, mtime=0)


def _main(sdist: Path) -> None:
    import hashlib

    content = make_movies(sdist)
    with atomic_path(DATA) as temporary:
        temporary.write_bytes(content)
    rows = {split: len(examples) for split, examples in read_movies().items()}
    provenance = {
        "what": "human-rated sentences of film reviews (Pang & Lee 2005), rated by Hutto & Gilbert 2014 (ICWSM)",
        "package": "vaderSentiment",
        "version": "3.3.2",
        "distribution": "source",
        "distribution_sha256": hashlib.sha256(sdist.read_bytes()).hexdigest(),
        "path": f"{_INNER} -> {_FILE}",
        "licence": "MIT, Copyright (c) 2016 C.J. Hutto; the sentences are quotations from reviews on Rotten Tomatoes",
        "changes": "label = sign of the mean rating, mean 0 left out, spaces made single, split drawn with seed 0",
        "rows": rows,
        "sha256": hashlib.sha256(gzip.decompress(content)).hexdigest(),
        "sha256_of": "the unzipped content",
        "regenerate": "python -m r2mae_text.data.movies vaderSentiment-3.3.2.tar.gz",
    }
    write_text(PROVENANCE, json.dumps(provenance, indent=1) + "\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

"""The table of samples by features that a user would give to `advise`: a column for each feature that can be masked.

Rows, columns and the number of samples (that of the training set) were fixed before any model was trained.
"""

from pathlib import Path

import numpy as np

N_WORDS = 500
N_PHOTOGRAPHS = 5_000


def digits(work: Path) -> np.ndarray:
    """1,347 pictures of digits × 64 pixels (`advise` leaves out those that are always empty)."""
    from r2mae_vision.mnist.data import load_images

    return load_images("digits").train_images.numpy().astype(float)


def cifar10(work: Path) -> np.ndarray:
    """5,000 photographs × 64 patches of 4 × 4 pixels: the mean grey of each."""
    from r2mae_vision.data.sources import open_source

    source = open_source(str(work / "data"), "train")
    images = source.fetch(np.arange(len(source)))[0].numpy().astype(float)  # pyright: ignore[reportAttributeAccessIssue]
    n, _, side, _ = images.shape
    return images.mean(1).reshape(n, side // 4, 4, side // 4, 4).mean((2, 4)).reshape(n, -1)


def cut_cifar10(source: Path, data: Path) -> None:
    """Write the first fifth of each of CIFAR-10's training files, and its test file, in the same format."""
    data.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("*.bin")):
        rows = np.fromfile(file, np.uint8).reshape(-1, 3073)
        kept = rows if file.name == "test_batch.bin" else rows[: N_PHOTOGRAPHS // 5]
        kept.tofile(data / file.name)


def pbmc(work: Path) -> np.ndarray:
    """700 blood cells × 765 genes: log of the counts per 10,000."""
    from r2mae_singlecell.baselines import log_normalized
    from r2mae_singlecell.data.pbmc import load_pbmc

    return log_normalized(load_pbmc().X).toarray().astype(float)


def apes(work: Path) -> np.ndarray:
    """Training windows × 128 positions of the human sequence: 1 for G or C, 0 for A or T."""
    from r2mae_dna.data.codes import decode
    from r2mae_dna.data.samples import prepare_apes
    from r2mae_dna.data.windows import WindowSet

    work.mkdir(parents=True, exist_ok=True)
    codes = np.asarray(WindowSet(prepare_apes(work)[1]).codes[:, :, 0])
    letters = np.frombuffer(decode(codes.ravel()).upper().encode(), dtype="S1").reshape(codes.shape)
    return np.isin(letters, [b"G", b"C"]).astype(float)


def words(work: Path) -> np.ndarray:
    """9,000 film sentences × the 500 commonest words: whether the sentence has the word."""
    from sklearn.feature_extraction.text import CountVectorizer

    from r2mae_text.data.movies import read_movies

    sentences = [text for text, _ in read_movies()["train"]]
    return CountVectorizer(max_features=N_WORDS, binary=True).fit_transform(sentences).toarray().astype(float)


def labels(name: str, work: Path) -> np.ndarray | None:
    """Return what the network's evaluation predicts, a column of 0 and 1 for each class; None: not a class."""
    if name == "digits":
        from r2mae_vision.mnist.data import load_images

        classes = load_images("digits").train_labels.numpy()
    elif name == "cifar10":
        from r2mae_vision.data.sources import open_source

        classes = np.asarray(open_source(str(work / "data"), "train").labels)  # pyright: ignore[reportAttributeAccessIssue]
    elif name == "pbmc":
        from r2mae_singlecell.data.pbmc import load_pbmc

        classes = load_pbmc().obs["cell_type"].astype(str).to_numpy()
    elif name == "words":
        from r2mae_text.data.movies import read_movies

        classes = np.array([label for _, label in read_movies()["train"]])
    else:
        return None
    return (classes[:, None] == np.unique(classes)).astype(float)

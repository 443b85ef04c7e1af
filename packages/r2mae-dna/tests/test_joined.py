"""Several stores in one command: the result is that of the store into which they would be merged."""

import gzip

import numpy as np
import pytest

from r2mae_core import UserError
from r2mae_dna.data.codes import SOFT_MASK, TOKEN_BITS
from r2mae_dna.data.joined import open_stores
from r2mae_dna.data.merge import merge_stores
from r2mae_dna.data.store import StoreWriter
from r2mae_dna.data.windows import SPLITS, read_info

N = 600


def write(path, chromosomes, species=("hg", "pt", "mm"), case="maf"):
    writer = StoreWriter(path, species)
    for seed, name in enumerate(chromosomes):
        codes = np.random.default_rng([seed, len(name)]).integers(1, 5, (N, len(species))).astype(np.uint8)
        codes[50:90, 0] |= SOFT_MASK
        writer.write(name, codes)
    writer.close(case=case)
    return path


@pytest.fixture
def stores(tmp_path):
    """Two stores, and the one into which they are merged."""
    first, second = write(tmp_path / "a", ["chr21", "x"]), write(tmp_path / "b", ["chr22"])
    merge_stores([first, second], tmp_path / "merged")
    return first, second, tmp_path / "merged"


def test_joined_stores_read_as_the_merged_one(stores):
    joined, merged = open_stores(stores[0], stores[1:2]), open_stores(stores[2])
    assert (joined.digest, joined.species, joined.lengths) == (merged.digest, merged.species, merged.lengths)
    assert joined.chromosomes == ["chr21", "x", "chr22"]
    for name in joined.chromosomes:
        assert joined.stretches(name) == merged.stretches(name)
        assert np.array_equal(joined.read(name, -5, N + 5), merged.read(name, -5, N + 5))
    assert joined.chromosome("22") == "chr22"
    assert open_stores(stores[1], stores[:1]).digest != merged.digest  # another order


def test_commands_take_several_stores(stores, call, tmp_path, toy_model):
    first, second, merged = stores
    both = ["--more_msa", f"[{second}]", "--no-progress"]
    code, out, err = call("prepare", first, *both[:2], "--validation_regions", "chr22:301-600", "--out", "w")
    assert code == 0, err
    assert call("prepare", merged, "--validation_regions", "chr22:301-600", "--out", "v")[0] == 0
    ours, theirs = read_info(tmp_path / "w"), read_info(tmp_path / "v")
    assert ours == theirs
    assert ours.counts["validation"] > 0
    for split in (name for name in SPLITS if ours.counts[name]):
        assert (tmp_path / "w" / split / "codes.npy").read_bytes() == (
            tmp_path / "v" / split / "codes.npy"
        ).read_bytes()

    lines = ["chrom\tpos\tref\talt"]
    for name in ("chr22", "21", "x"):
        codes = open_stores(merged).read({"21": "chr21"}.get(name, name), 0, N)[:, 0] & TOKEN_BITS
        lines += [f"{name}\t{p + 1}\t{'-ACGT'[codes[p]]}\t{'-CGTA'[codes[p]]}" for p in range(3, N, 50)]
    (tmp_path / "v.tsv").write_text("\n".join(lines) + "\n")
    for out, store, more in (("one", merged, both[2:]), ("two", first, both)):
        argv = [toy_model[0], store, "v.tsv", *more, "--device", "cpu", "--out", f"{out}.tsv"]
        code, said, err = call("score", *argv)
        assert code == 0, err
        assert f"{len(lines) - 1} scored" in said
        assert call("scan", "frequencies", store, *more, "--out", f"scan-{out}")[0] == 0
        assert call("embed", toy_model[0], store, "--regions", "chr22:9-12 x:5-6", *more, "--out", f"{out}.npz")[0] == 0
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()
    texts = [gzip.decompress((tmp_path / f"scan-{out}" / "scores.tsv.gz").read_bytes()) for out in ("one", "two")]
    assert texts[0] == texts[1]
    assert texts[0].count(b"\n") == 1 + 3 * 3 * N
    with np.load(tmp_path / "one.npz") as theirs, np.load(tmp_path / "two.npz") as ours:
        assert ours["pos"].tolist() == [5, 6, 9, 10, 11, 12]
        assert np.array_equal(ours["values"], theirs["values"])


@pytest.mark.parametrize(
    ("chromosomes", "change", "message"),
    [
        (["9", "x"], {}, "x is in .*a and in .*c; a chromosome must be in one store"),
        (["9"], {"species": ("hg", "mm", "pt")}, "has other species than .*a, or another order of them"),
        (["9"], {"case": "fasta"}, "soft-masked letters of .*c are from another source"),
    ],
)
def test_stores_that_do_not_belong_together_are_refused(stores, call, tmp_path, chromosomes, change, message):
    other = write(tmp_path / "c", chromosomes, **change)
    with pytest.raises(UserError, match=message):
        open_stores(stores[0], [other])
    assert call("prepare", stores[0], "--more_msa", f"[{other}]", "--out", "w")[0] == 1
    assert not (tmp_path / "w").exists()


def test_no_store_is_an_output(stores, call):
    code, _, err = call("scan", "frequencies", stores[0], "--more_msa", f"[{stores[1]}]", "--out", stores[1])
    assert code == 1
    assert "is an input of this command" in err

"""A store is the same by any number of workers, in parts, and after an interruption; stores are joined."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from r2mae_core import UserError
from r2mae_dna.cli import main
from r2mae_dna.data import build, build_groups
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.build_groups import OVERLAPS
from r2mae_dna.data.build_plan import BuildPlan, part_of, split_groups
from r2mae_dna.data.merge import merge_stores
from r2mae_dna.data.store import AlignmentStore, StoreWriter


def letters(rng, n):
    return "".join(rng.choice(list("ACGTacgtN"), n))


@pytest.fixture
def files(tmp_path):
    """Five chromosomes in three files, one of them in two files with overlaps, and a genome for four of them."""
    rng = np.random.default_rng(0)
    lengths = {"chr1": 900, "chr2": 300, "a.b": 500, "chrX": 700, "chr5": 60}
    genome = {name: letters(rng, n) for name, n in lengths.items()}
    homes = {"chr1": (0,), "chr2": (0, 1), "a.b": (1,), "chrX": (1,), "chr5": (2,)}
    text = ["##maf version=1\n", "##maf version=1\n", "##maf version=1\n"]
    for name, numbers in homes.items():
        for number in numbers:
            for _ in range(12):
                size = int(rng.integers(5, 40))
                start = int(rng.integers(0, lengths[name] - size))
                rows = [f"s hg.{name} {start} {size} + {lengths[name]} {genome[name][start : start + size]}"]
                for other in ("pt", "mm", "rn"):
                    if rng.random() < 0.7:
                        row = letters(rng, size)
                        rows.append(f"s {other}.1 7 {size} + 9999 {row}")
                text[number] += "a\n" + "\n".join(rows) + "\n\n"
    text[0] += "a\ns pt.1 0 2 + 9 AC\ns pt.2 0 3 + 9 ACG\n"  # rows of two widths, without the reference
    text[1] += "a\ns zz.1 0 2 ? 9 AC\n"
    text[2] += "a\ns pt.1 0 2 + 9 AC\ns mm.2 0 2 + 9 AC\n"
    text.append("a\ns pt.1 0 2 + 9 AC\ns mm.1 0 2 + 9 AC\n")  # a file without the reference
    paths = [tmp_path / f"{i}.maf" for i in range(4)]
    for path, content in zip(paths, text, strict=True):
        path.write_text(content)
    fasta = tmp_path / "g.fa"
    fasta.write_text("".join(f">{name}\n{row}\n" for name, row in genome.items() if name != "a.b"))
    return paths, fasta


def content(store):
    """Return everything that a store holds: name → bytes."""
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in store.rglob("*") if file.is_file()}


@pytest.fixture
def whole(files, tmp_path):
    paths, fasta = files
    report = build_alignment(paths, tmp_path / "whole", reference="hg", fasta=fasta)
    assert report.overlaps > 0
    assert report.counts.without_reference == 3
    assert report.counts.faults == {"whose strand is neither + nor -": 1}
    assert report.unchecked == ("a.b",)
    assert report.info.left_out[OVERLAPS] == report.overlaps
    return report


def same_report(ours, theirs):
    for name in ("info", "counts", "overlaps", "checked", "mismatches", "filled", "unchecked", "without_blocks"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_any_number_of_workers_makes_the_same_bytes(files, whole, tmp_path):
    paths, fasta = files
    report = build_alignment(paths, tmp_path / "two", reference="hg", fasta=fasta, workers=2, progress=True)
    same_report(report, whole)
    assert content(tmp_path / "two") == content(tmp_path / "whole")
    assert not list(tmp_path.glob(".*.build"))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_parts_join_into_the_same_store(files, whole, tmp_path, n, capsys):
    paths, fasta = files
    parts = []
    for i in range(n):
        out = tmp_path / f"part{i}"
        words = ["msa", "build", "hg", *map(str, paths), "--fasta", str(fasta), "--part", f"{i + 1}/{n}"]
        with pytest.raises(SystemExit) as end:
            main([*words, "--out", str(out), "--progress", "false"])
        assert end.value.code == 0, capsys.readouterr().err
        if out.exists():
            parts.append(out)
    assert len(parts) == min(n, 5) if n < 7 else len(parts) < 7
    with pytest.raises(SystemExit) as end:
        main(["msa", "merge", *map(str, reversed(parts)), "--out", str(tmp_path / "joined")])
    assert end.value.code == 0
    assert content(tmp_path / "joined") == content(tmp_path / "whole")
    # A command that made the whole store finds it there.
    with pytest.raises(SystemExit) as end:
        main(["msa", "build", "hg", *map(str, paths), "--fasta", str(fasta), "--out", str(tmp_path / "joined")])
    assert end.value.code == 0
    assert "Done before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"not all parts are there \(only .*\): .* missing"):
        merge_stores(parts[1:], tmp_path / "lacks")
    with pytest.raises(UserError, match=r"is in .*part0 and in .*part0; a chromosome must be in one store"):
        merge_stores([parts[0], *parts], tmp_path / "twice")
    build_alignment(paths, tmp_path / "foreign", reference="hg", part=f"1/{n}")
    with pytest.raises(UserError, match="are parts of different builds: case was fasta and maf"):
        merge_stores([tmp_path / "foreign", *parts[1:]], tmp_path / "mixed")
    paths[0].touch()
    build_alignment(paths, tmp_path / "later", reference="hg", fasta=fasta, part=f"1/{n}")
    with pytest.raises(UserError, match=r"0\.maf.* was built from others"):
        merge_stores([tmp_path / "later", *parts[1:]], tmp_path / "mixed")
    assert not any((tmp_path / name).exists() for name in ("lacks", "twice", "mixed"))


def test_an_interrupted_build_keeps_what_is_finished(files, whole, tmp_path, monkeypatch):
    paths, fasta = files
    made = []
    original = build_groups.build_group

    def counted(group):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(tuple(group.lengths))
        original(group)

    with monkeypatch.context() as patch:
        patch.setattr(build, "build_group", counted)
        with pytest.raises(KeyboardInterrupt):
            build_alignment(paths, tmp_path / "cut", reference="hg", fasta=fasta)
    assert len(list((tmp_path / ".cut.build").glob("*/0*"))) == 1
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(build, "build_group", lambda group: (again.append(tuple(group.lengths)), original(group)))
        report = build_alignment(paths, tmp_path / "cut", reference="hg", fasta=fasta)
    assert report.kept == made[0]
    assert not set(report.kept) & {name for names in again for name in names}
    same_report(report, whole)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert not list(tmp_path.glob(".*.build"))


@pytest.mark.parametrize("change", ["file", "genome", "damage", "species"])
def test_what_was_finished_from_other_files_is_made_again(files, tmp_path, monkeypatch, change):
    paths, fasta = files
    original, made = build_groups.build_group, []

    def stops(group):
        if made:
            raise KeyboardInterrupt
        made.append(group)
        original(group)

    with monkeypatch.context() as patch:
        patch.setattr(build, "build_group", stops)
        with pytest.raises(KeyboardInterrupt):
            build_alignment(paths, tmp_path / "cut", reference="hg", fasta=fasta)
    species = []
    if change == "file":
        paths[0].write_text(paths[0].read_text().replace("s pt.1 7", "s pt.1 8").replace("A\n", "C\n"))
    elif change == "genome":
        fasta.write_text(fasta.read_text().lower())
    elif change == "species":
        species = ["mm", "pt"]
    else:
        file = next(file for file in made[0].folder.rglob("c/0/0"))
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    report = build_alignment(paths, tmp_path / "cut", reference="hg", fasta=fasta, species=species)
    assert report.kept == ()
    fresh = build_alignment(paths, tmp_path / "fresh", reference="hg", fasta=fasta, species=species)
    same_report(report, fresh)
    assert content(tmp_path / "cut") == content(tmp_path / "fresh")


def test_a_failing_worker_ends_the_build_with_its_message(files, tmp_path):
    paths, _ = files
    paths[2].write_text(paths[2].read_text() + "a\ns hg.chr5 0 2 + 60 A\n")
    with pytest.raises(UserError, match=r"2\.maf, line \d+: hg\.chr5 declares 2 letters and has 1"):
        build_alignment(paths, tmp_path / "s", reference="hg", workers=2)
    assert not (tmp_path / "s").exists()


def plan_of(files, bases=None):
    n = max((i for numbers in files.values() for i in numbers), default=-1) + 1
    bases = bases or dict.fromkeys(files, 100)
    return BuildPlan({}, bases, bases, bases, files, ("",) * n)


def test_groups_share_no_file_unless_workers_do():
    plan = plan_of({"a": (0,), "b": (1,), "c": (0, 2), "d": (3,), "e": (1, 3)})
    assert sorted(map(sorted, split_groups(plan, list("abcde"), 1))) == [["a", "c"], ["b", "d", "e"]]
    assert sorted(name for group in split_groups(plan, list("abcde"), 3) for name in group) == list("abcde")
    one_file = plan_of(dict.fromkeys("abcd", (0,)))
    assert split_groups(one_file, list("abcd"), 1) == [list("abcd")]
    assert split_groups(one_file, list("abcd"), 2) == [["a", "b"], ["c", "d"]]
    many = plan_of({str(i): (i,) for i in range(1000)})
    groups = split_groups(many, [str(i) for i in range(1000)], 1)
    assert 8 <= len(groups) <= 32
    assert [name for group in groups for name in group] == [str(i) for i in range(1000)]
    assert [part_of(one_file, i, 3) for i in range(3)] == [["a"], ["b", "c"], ["d"]]


def test_stores_of_different_chromosomes_are_joined(tmp_path):
    rng, codes = np.random.default_rng(0), {}
    for i, names in enumerate((["x"], ["y", "z"])):
        writer = StoreWriter(tmp_path / f"s{i}", ["hg", "pt"])
        for name in names:
            codes[name] = rng.integers(0, 5, (50, 2), np.uint8)
            writer.write(name, codes[name])
        writer.close({"skipped": 1 + i})
    writer = StoreWriter(tmp_path / "one", ["hg", "pt"])
    for name in ("y", "z", "x"):
        writer.write(name, codes[name])
    one = writer.close({"skipped": 3})
    joined = merge_stores([tmp_path / "s1", tmp_path / "s0"], tmp_path / "joined")
    assert joined.digest == one.digest
    assert (joined.depth, joined.counts, joined.left_out) == (one.depth, one.counts, one.left_out)
    store = AlignmentStore(tmp_path / "joined")
    assert all((store.read(name, 0, 50) == codes[name]).all() for name in codes)
    StoreWriter(tmp_path / "other", ["hg", "mm"]).write("w", codes["x"])
    writer = StoreWriter(tmp_path / "third", ["hg", "mm"])
    writer.write("w", codes["x"])
    writer.close()
    with pytest.raises(UserError, match=r"third has another species than .*s0: hg, mm and hg, pt"):
        merge_stores([tmp_path / "s0", tmp_path / "third"], tmp_path / "no")
    index = tmp_path / "s0" / "zarr.json"
    inside = json.loads(index.read_text())
    del inside["attributes"]["r2mae_dna"]["digests"], inside["attributes"]["r2mae_dna"]["seal"]
    index.write_text(json.dumps(inside))
    with pytest.raises(UserError, match="cannot be joined; build it again"):
        merge_stores([tmp_path / "s0", tmp_path / "s1"], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_genome_in_2bit_is_a_genome_in_fasta(files, tmp_path, monkeypatch):
    pytest.importorskip("py2bit")
    paths, fasta = files
    two_bit = write_two_bit(fasta, tmp_path / "g.2bit")
    ours = build_alignment(paths, tmp_path / "two", reference="hg", fasta=two_bit)
    theirs = build_alignment(paths, tmp_path / "one", reference="hg", fasta=fasta)
    assert ours.info.digest == theirs.info.digest
    assert ours.info.soft_masked == theirs.info.soft_masked > 0
    two_bit.write_bytes(two_bit.read_bytes()[:60])
    with pytest.raises(UserError, match=r"g\.2bit"):
        build_alignment(paths, tmp_path / "cut", reference="hg", fasta=two_bit)
    monkeypatch.setitem(__import__("sys").modules, "py2bit", None)
    with pytest.raises(UserError, match=r"needs py2bit: pip install 'r2mae-dna\[twobit\]'"):
        build_alignment(paths, tmp_path / "none", reference="hg", fasta=two_bit)


def write_two_bit(fasta: Path, out: Path) -> Path:
    """Write UCSC's 2bit by its description (genome.ucsc.edu/FAQ/FAQformat.html#format7)."""
    records = [record.split("\n", 1) for record in fasta.read_text().split(">")[1:]]
    records = [(name, text.replace("\n", "")) for name, text in records]

    def word(*values):
        return np.array(values, "<u4").tobytes()

    def runs(flags):
        edges = np.flatnonzero(np.diff([0, *flags, 0]))
        return word(len(edges) // 2) + word(*edges[::2]) + word(*(edges[1::2] - edges[::2]))

    bodies = []
    for _, text in records:
        codes = ["TCAG".find(letter.upper()) % 4 if letter != "N" else 0 for letter in text]
        codes += [0] * (-len(codes) % 4)
        packed = np.array(codes, np.uint8).reshape(-1, 4) @ np.array([64, 16, 4, 1], np.uint8)
        masks = runs([letter in "Nn" for letter in text]) + runs([letter.islower() for letter in text])
        bodies.append(word(len(text)) + masks + word(0) + packed.astype(np.uint8).tobytes())
    offset = 16 + sum(len(name) + 5 for name, _ in records)
    index = b""
    for (name, _), body in zip(records, bodies, strict=True):
        index += bytes([len(name)]) + name.encode() + word(offset)
        offset += len(body)
    out.write_bytes(word(0x1A412743, 0, len(records), 0) + index + b"".join(bodies))
    return out


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_estimate_is_of_the_whole_files(tmp_path, monkeypatch, suffix):
    from r2mae_dna.data import estimate

    rng = np.random.default_rng(0)
    blocks = [
        f"a\ns hg.chr1 {40 * i} 40 + 400000 {letters(rng, 40)}\ns pt.1 0 40 + 99 {letters(rng, 40)}\n"
        for i in range(10_000)
    ]
    text = "##maf version=1\n" + "".join(blocks)
    for name in ("a.maf", "b.maf"):
        write = gzip.compress if suffix else bytes
        (tmp_path / f"{name}{suffix}").write_bytes(write(text.encode()))
    monkeypatch.setattr(estimate, "SAMPLE", 1 << 18)
    found = estimate.estimate_build([tmp_path / f"a.maf{suffix}", tmp_path / f"b.maf{suffix}"], "hg", [])
    assert found.text == pytest.approx(2 * len(text), rel=0.15)
    assert found.bases == pytest.approx(800_000, rel=0.15)
    assert found.letters == found.bases * 3
    assert 0 < found.seconds < 1000
    assert "with 4 workers" in found.line(4)
    assert estimate.estimate_build([tmp_path / f"a.maf{suffix}"], "mm", []) is None
    (tmp_path / "bad.maf.gz").write_bytes(gzip.compress(b"##maf")[:-9])
    assert estimate.estimate_build([tmp_path / "bad.maf.gz"], "hg", []) is None

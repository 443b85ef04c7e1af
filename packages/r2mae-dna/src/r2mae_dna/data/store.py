"""The alignment store: a zarr group with one (positions, 1 + species) array of bytes per chromosome.

The reference is column 0 and keeps its case (`codes.SOFT_MASK`); the group's attributes name the species, so that a
model can refuse an alignment whose species are in another order. Stores in the layout that GPN-MSA published (letters,
no attributes) are read as well.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import Contents, UserError, check_contents, contents_of, reading
from r2mae_dna.data.chromosome_names import ChromosomeNames
from r2mae_dna.data.codes import ENCODE, ENCODE_REFERENCE, TOKEN_BITS
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.data.published import published_digest, refuse_code, refuse_foreign

ATTRIBUTE = "r2mae_dna"
VERSION = 3
_INDEX = "zarr.json"
_PLAIN = re.compile(r"(?!__|zarr\.json$)[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
"""Names of chromosomes that are safe as names of folders, on every system."""
SHARD_ROWS = 524_288
CHUNK_BYTES = 262_144
"""Approximate size of a chunk: small enough to read one window quickly, large enough for a small overhead."""


@dataclass(frozen=True)
class SpeciesCount:
    """How much of the reference a species covers, and how much of that is the same letter."""

    aligned: int
    identical: int


@dataclass(frozen=True)
class StoreInfo:
    """The attributes of a store."""

    species: tuple[str, ...]
    """The reference first."""
    covered: dict[str, int]
    """Chromosome → positions with a reference base."""
    soft_masked: int
    counts: tuple[SpeciesCount, ...]
    """One per species beside the reference."""
    depth: tuple[int, ...]
    """Covered positions by number of aligned species, from 0."""
    shards: dict[str, list[int]]
    """Chromosome → the stretches of `SHARD_ROWS` positions with content."""
    digest: str
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → what the build skipped."""
    made: dict[str, Any] = field(default_factory=dict)
    """Options of the build, and its "sources" as `fingerprint` names them."""
    files: Contents = field(default_factory=lambda: dict[str, Any]())
    """Sizes and checksums of the store's files; none in stores of before they were noted."""
    case: str | None = None
    """Whose lower-case letters are the soft-masked ones: "maf" or "fasta"; None in stores of before it was one of them,
    where it was the alignment's under blocks and the genome's elsewhere."""
    digests: dict[str, str] = field(default_factory=dict[str, str])
    """Chromosome → digest of its content; none in stores of before they were noted."""


class AlignmentStore:
    """Read access to a store.

    A store of `msa-build` is checked when it is opened: the sizes of all its files, and their checksums if it has at
    most `VERIFIED` (1 GiB). Whatever its size, each part has a checksum that is checked when the part is read.

    Args:
        path: the folder that `msa-build` wrote, or a published GPN-MSA zarr folder or zip.

    Raises:
        UserError: the path is not an alignment store, is damaged, or could run code.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr's, about files that are not its own
            self._open()

    def _open(self) -> None:
        group = _open_group(self.path)
        try:
            attributes: Any = group.attrs.get(ATTRIBUTE)
            self.info = _info(attributes, self.path) if attributes is not None else None
            if attributes is not None and self.info is not None:
                if self.path.is_dir():  # a zip file has its own checksums
                    check_contents(self.path, self.info.files, "restore it, or make the store again")
                plain = attributes.get("version", 1) < 3  # names of chromosomes were names of arrays
                arrays = {name: group[name if plain else array_name(name)] for name in self.info.shards}
            else:
                arrays = dict(sorted(group.arrays()))
        except UserError:
            raise
        except Exception as error:  # zarr's, and those of whatever lies there
            raise _not_a_store(self.path, error) from None
        bad = [name for name, array in arrays.items() if getattr(array, "ndim", 0) != 2]
        if not arrays or bad:
            raise UserError(f"{self.path} is not an alignment store: it has {'no arrays' if not arrays else bad[0]!r}")
        for name, array in arrays.items():
            refuse_code(self.path, name, array, "|S1" if self.info is None else "uint8")
        self._arrays = arrays
        self.chromosomes = list(arrays)
        self.lengths = {name: int(array.shape[0]) for name, array in arrays.items()}
        widths = {int(array.shape[1]) for array in arrays.values()}
        if len(widths) != 1:
            raise UserError(f"{self.path}: the chromosomes do not have the same number of species: {sorted(widths)}")
        self.n_species = widths.pop() - 1
        """Species beside the reference."""

    @property
    def species(self) -> tuple[str, ...] | None:
        """Names, the reference first; None if the store does not name them (published layout)."""
        return self.info.species if self.info is not None else None

    @property
    def made(self) -> dict[str, Any]:
        """What the store was made from; nothing if that is not noted."""
        return self.info.made if self.info is not None else {}

    @cached_property
    def digest(self) -> str:
        """Digest of the store's content, wherever it lies; see `published_digest` for those without their own."""
        if self.info is not None:
            return self.info.digest
        with reading(self.path, "an alignment store"):
            return published_digest(self.path)

    @cached_property
    def _names(self) -> ChromosomeNames:
        return ChromosomeNames(self.chromosomes)

    def chromosome(self, name: str) -> str | None:
        """Return the store's own name of a chromosome, which may be in another style; None if it is not there."""
        return self._names.find(name)

    def stretches(self, chromosome: str) -> list[tuple[int, int]]:
        """Return the stretches (start, end) of at most `SHARD_ROWS` positions that may have content, in order."""
        length = self.lengths[chromosome]
        shards = range(-(-length // SHARD_ROWS)) if self.info is None else self.info.shards[chromosome]
        return [(i * SHARD_ROWS, min((i + 1) * SHARD_ROWS, length)) for i in shards]

    def read(self, chromosome: str, start: int, end: int) -> np.ndarray:
        """Return the bytes of [start, end), (end - start, 1 + species) uint8; outside the chromosome all gaps.

        Args:
            chromosome: the store's own name.
            start: 0-based; may be negative.
            end: exclusive; may be beyond the chromosome.
        """
        first, last = max(start, 0), min(end, self.lengths[chromosome])
        inside = self._read_inside(chromosome, first, max(last, first))
        if first == start and last == end:
            return inside
        padded = np.zeros((end - start, self.n_species + 1), np.uint8)
        padded[first - start : first - start + len(inside)] = inside
        return padded

    def _read_inside(self, chromosome: str, start: int, end: int) -> np.ndarray:
        with reading(f"{self.path}, {chromosome}", "a part of an alignment store"):
            values = np.asarray(self._arrays[chromosome][start:end])
        if self.info is not None:
            return values
        letters = values.view(np.uint8).reshape(values.shape)
        refuse_foreign(self.path, chromosome, letters)
        codes = ENCODE[letters]
        codes[:, 0] = ENCODE_REFERENCE[letters[:, 0]]
        return codes


def _open_group(path: Path) -> Any:
    import zarr
    from zarr.storage import ZipStore

    if not path.exists():
        raise UserError(f"no alignment store at {path}; make one from MAF files with r2mae-dna msa-build")
    try:
        source = ZipStore(path, mode="r") if path.suffix == ".zip" else path
        return zarr.open_group(source, mode="r")
    except Exception as error:  # zarr's, and those of whatever lies there
        raise _not_a_store(path, error) from None


def _not_a_store(path: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return UserError(
        f"{path} is not an alignment store (a zarr group), or is damaged: {type(error).__name__}: {reason}"
    )


def _info(attributes: Any, path: Path) -> StoreInfo:
    if attributes.get("version", 1) > VERSION:
        raise UserError(f"{path} is of a later version of r2mae-dna, which this one cannot read; update r2mae-dna")
    seal = attributes.get("seal")
    if seal is not None and seal != digest_of({**attributes, "seal": None}):
        raise UserError(f"{path / _INDEX} is damaged or was edited: its checksum is another; make the store again")
    return StoreInfo(
        species=tuple(attributes["species"]),
        covered=dict(attributes["covered"]),
        soft_masked=attributes["soft_masked"],
        counts=tuple(SpeciesCount(**count) for count in attributes["counts"]),
        depth=tuple(attributes["depth"]),
        shards={name: list(shards) for name, shards in attributes["shards"].items()},
        digest=attributes["digest"],
        left_out=dict(attributes.get("left_out", {})),
        made=dict(attributes.get("made", {})),
        files=dict(attributes.get("files", {})),
        case=attributes.get("case"),
        digests=dict(attributes.get("digests", {})),
    )


def store_entries(path: Path) -> set[str]:
    """Return the names of what a store of ours holds in its folder; none, if it is none."""
    try:
        index = json.loads((path / _INDEX).read_bytes())
        attributes = index["attributes"][ATTRIBUTE]
        plain = attributes["version"] < 3
        return {_INDEX, *(name if plain else array_name(name) for name in attributes["shards"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def array_name(chromosome: str) -> str:
    """Return the name of a chromosome's array, and so of a folder: its own, or where that cannot be, a digest."""
    if _PLAIN.fullmatch(chromosome):
        return chromosome
    return "%" + hashlib.sha256(chromosome.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class StoreWriter:
    """Writes chromosomes into a new store, and counts while writing.

    Args:
        path: a folder that does not exist yet.
        species: the reference first.
    """

    def __init__(self, path: Path, species: Sequence[str]) -> None:
        import zarr

        self.species, self._path = tuple(species), path
        self._group = zarr.open_group(path, mode="w-", zarr_format=3)
        self._digests: dict[str, str] = {}
        n = len(self.species)
        self._aligned, self._identical = np.zeros(n - 1, np.int64), np.zeros(n - 1, np.int64)
        self._depth = np.zeros(n, np.int64)
        self._covered: dict[str, int] = {}
        self._shards: dict[str, list[int]] = {}
        self._soft_masked = 0

    def write(self, chromosome: str, codes: np.ndarray, shards: Collection[int] | None = None) -> None:
        """Write one chromosome shard by shard.

        Args:
            chromosome: its name.
            codes: (length, 1 + species) uint8, usually a memory map.
            shards: the stretches of `SHARD_ROWS` positions with content; the others are not read.
        """
        from zarr.codecs import Crc32cCodec, ZstdCodec

        rows, columns = codes.shape
        chunk = 1 << max((CHUNK_BYTES // columns).bit_length() - 1, 10)
        shard = min(SHARD_ROWS, -(-rows // chunk) * chunk)
        array = self._group.create_array(
            array_name(chromosome),
            shape=codes.shape,
            dtype="uint8",
            chunks=(chunk, columns),
            shards=(shard, columns),
            fill_value=0,
            compressors=[ZstdCodec(), Crc32cCodec()],
        )
        content = hashlib.sha256(f"{rows}".encode())
        self._covered[chromosome], self._shards[chromosome] = 0, []
        for i in range(-(-rows // shard)) if shards is None else sorted(shards):
            start = i * shard
            part = np.ascontiguousarray(codes[start : start + shard])
            if part.any():  # an empty shard stays unwritten
                array[start : start + shard] = part
                self._shards[chromosome].append(start // SHARD_ROWS)
                content.update(start.to_bytes(8, "little") + part.tobytes())
                self._count(chromosome, part)
        self._digests[chromosome] = content.hexdigest()[:32]

    def _count(self, chromosome: str, part: np.ndarray) -> None:
        known = np.flatnonzero(part[:, 0] & TOKEN_BITS)
        if len(known) == 0:
            return
        columns = np.ascontiguousarray(
            part[known[0] : known[-1] + 1].T
        )  # counting along contiguous memory is ten times faster
        reference = columns[0] & TOKEN_BITS
        covered = reference > 0
        depth = np.zeros(len(reference), np.uint16)
        for i, other in enumerate(columns[1:]):
            aligned = covered & (other > 0)
            depth += aligned
            self._aligned[i] += np.count_nonzero(aligned)
            self._identical[i] += np.count_nonzero(aligned & (other == reference))
        self._covered[chromosome] += int(np.count_nonzero(covered))
        self._soft_masked += int(np.count_nonzero(columns[0] > TOKEN_BITS))
        self._depth += np.bincount(depth[covered], minlength=len(self.species))

    def close(
        self, left_out: Mapping[str, int] | None = None, made: Mapping[str, Any] | None = None, case: str = "maf"
    ) -> StoreInfo:
        """Write the attributes and return them.

        Args:
            left_out: reason → what was skipped.
            made: what the store is made from; see `StoreInfo.made`.
            case: whose lower-case letters are the soft-masked ones; see `StoreInfo.case`.
        """
        info = StoreInfo(
            self.species,
            self._covered,
            self._soft_masked,
            tuple(SpeciesCount(int(a), int(i)) for a, i in zip(self._aligned, self._identical, strict=True)),
            tuple(int(count) for count in self._depth),
            self._shards,
            content_digest(self.species, self._digests),
            dict(left_out or {}),
            dict(made or {}),
            contents_of(self._path, array_files(self._path)),
            case,
            self._digests,
        )
        seal_store(self._group, info)
        return info


def content_digest(species: Sequence[str], digests: Mapping[str, str]) -> str:
    """Return the digest of a store from its species and chromosome → digest, in its order."""
    lines = [*species, "", *(f"{digest} {chromosome}" for chromosome, digest in digests.items())]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def array_files(path: Path) -> list[str]:
    """Return the names of all files of a store but its index."""
    paths = sorted(file for file in path.rglob("*") if file.is_file() and file != path / _INDEX)
    return [file.relative_to(path).as_posix() for file in paths]


def seal_store(group: Any, info: StoreInfo) -> None:
    """Write the attributes of a store, with a checksum, into its zarr group."""
    attributes = {"version": VERSION, **asdict(info), "seal": None}
    group.attrs[ATTRIBUTE] = {**attributes, "seal": digest_of(attributes)}

"""Shuffling in blocks, for counts that are larger than memory: chunks of neighbouring rows are pooled and mixed.

Each epoch takes the chunks in another order, so many of them at a time make a pool, and the cells of a pool are
shuffled. The disk is read in pieces instead of rows, and the memory holds two pools. A batch holds cells of up to
`pool / chunk` places of the file (256 by default): of a file sorted by donor, as many donors at most.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from r2mae_core import BatchOrder, ResumableLoader, StepOrder, UserError, derived_seed, permutation, rank_and_world_size
from r2mae_singlecell.data.counts import CountMatrix, SparseRows
from r2mae_singlecell.data.gather import gathered_rows
from r2mae_singlecell.data.memory import available_memory, gigabytes
from r2mae_singlecell.data.sources import MEMORY_SHARE, Arrays, Buffers, CountSource, InMemory, Mapped, Span

logger = logging.getLogger(__name__)

Shuffle = Literal["auto", "exact", "blocks"]
CHUNK = 128
"""Cells of a chunk, by default."""
POOL = 32_768
"""Cells of a pool, by default; of 400 non-zero genes each, two pools take about 200 MB."""


@lru_cache(maxsize=4)
def _mixed(order: "BlockOrder", epoch: int, pool: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(derived_seed(order.seed, "pool", epoch, pool)))
    samples = order.samples_of(order.chunks(epoch, pool))
    rng.shuffle(samples)
    samples.flags.writeable = False
    return samples


@dataclass(frozen=True)
class BlockOrder:
    """The batches of a `BatchOrder` or `StepOrder`, in a permutation that keeps neighbours close in time.

    A pure function of (seed, position) like theirs, and the same cells for any number of ranks.

    Args:
        order: how many samples a batch has; its seed is used.
        chunk: neighbouring samples that stay together until they are mixed.
        pool: samples that are mixed at a time.

    Raises:
        UserError: a chunk or pool is not at least one sample, or the pool is smaller than a chunk.
    """

    order: BatchOrder | StepOrder
    chunk: int = CHUNK
    pool: int = POOL

    def __post_init__(self) -> None:
        if not 1 <= self.chunk <= self.pool:
            raise UserError(f"a chunk of {self.chunk} cells does not fit a pool of {self.pool}; both must be 1 or more")

    @property
    def seed(self) -> int:
        """Seed of the order."""
        return self.order.seed

    @property
    def n_samples(self) -> int:
        """Samples of an epoch, before the rest is left out."""
        return self.order.n_samples

    @property
    def chunks_per_pool(self) -> int:
        """Chunks that are mixed at a time."""
        return self.pool // self.chunk

    def n_batches(self, world_size: int = 1) -> int:
        """Return the batches of an epoch on one rank."""
        return self.order.n_batches(world_size)

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the samples of a rank's batch, (batch,) int64."""
        epoch, parts = self.parts(position, rank, world_size)
        return np.concatenate([_mixed(self, epoch, pool)[start:stop] for pool, start, stop in parts])

    def parts(self, position: int, rank: int = 0, world_size: int = 1) -> tuple[int, list[tuple[int, int, int]]]:
        """Return the epoch of a batch and where its samples are: (pool, first, last + 1 within it), in order."""
        epoch, turn = divmod(position, self.n_batches(world_size))
        size = self.order.batch_size if isinstance(self.order, BatchOrder) else self.order.micro_size
        at = (turn * world_size + rank) * size
        end, found = min(at + size, self.n_samples), []
        pool = at // (self.chunks_per_pool * self.chunk)
        while at < end:
            first, last = self._bounds(epoch, pool)
            if at < last:  # not so if the short chunk made the pool end early
                found.append((pool, at - first, min(end, last) - first))
            at, pool = max(at, min(end, last)), pool + 1
        return epoch, found

    def mixed(self, epoch: int, pool: int) -> np.ndarray:
        """Return the samples of a pool as they come, read-only."""
        return _mixed(self, epoch, pool)

    def chunks(self, epoch: int, pool: int) -> np.ndarray:
        """Return the chunks of a pool, ascending."""
        first = pool * self.chunks_per_pool
        return np.sort(self._order_of_chunks(epoch)[first : first + self.chunks_per_pool])

    def samples_of(self, chunks: np.ndarray) -> np.ndarray:
        """Return the samples of ascending chunks, ascending."""
        samples = (chunks[:, None] * self.chunk + np.arange(self.chunk)).ravel()
        return samples[samples < self.n_samples]

    def _order_of_chunks(self, epoch: int) -> np.ndarray:
        return permutation(-(-self.n_samples // self.chunk), derived_seed(self.seed, "chunks"), epoch)

    def _bounds(self, epoch: int, pool: int) -> tuple[int, int]:
        """Return where a pool begins and ends in the epoch; the last chunk of the data may be short."""
        order, size = self._order_of_chunks(epoch), self.chunks_per_pool
        short = self._place_of_last(epoch)
        lacks = len(order) * self.chunk - self.n_samples
        ends = [min(k * size, len(order)) for k in (pool, pool + 1)]
        first, last = (end * self.chunk - (lacks if short < end else 0) for end in ends)
        return first, last

    def _place_of_last(self, epoch: int) -> int:
        return _place_of_last(self, epoch)


@lru_cache(maxsize=4)
def _place_of_last(order: BlockOrder, epoch: int) -> int:
    chunks = order._order_of_chunks(epoch)
    return int(np.flatnonzero(chunks == len(chunks) - 1)[0])


class BlockLoader(ResumableLoader):
    """Batches in a `BlockOrder`; while one pool is handed out, a thread reads the next.

    Args:
        order: which samples come when.
        cells: (samples,) ascending positions of the samples in the counts.
        counts: where they are read from.
        covariates: of all cells, each (cells, …).
        fetch: makes a batch of any cells' positions; for a single batch that is wanted again.
    """

    def __init__(
        self,
        order: BlockOrder,
        cells: np.ndarray,
        counts: CountMatrix,
        covariates: dict[str, Tensor],
        fetch: Callable[[np.ndarray], dict[str, Any]],
    ) -> None:
        super().__init__(order, lambda samples: fetch(cells[samples]))  # pyright: ignore[reportArgumentType]
        self.order, self.cells, self.counts, self.covariates = order, cells, counts, covariates

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank, world_size = rank_and_world_size()
        first = self.state_dict()["position"]
        positions = range(first, first - first % len(self) + len(self))
        epoch, parts = self.order.parts(positions[0], rank, world_size)
        last = self.order.parts(positions[-1], rank, world_size)[1][-1][0]
        pools = range(parts[0][0], last + 1)
        with ThreadPoolExecutor(1) as executor:
            ahead = _ReadAhead(executor, [self._reader(epoch, pool) for pool in pools])
            pool, number = None, pools[0] - 1
            for position in positions:
                rows, cells = [], []
                for wanted, start, stop in self.order.parts(position, rank, world_size)[1]:
                    while number < wanted:  # a rank may need nothing of a small pool
                        pool, number = ahead.next(), number + 1
                    taken = self.cells[self.order.mixed(epoch, number)[start:stop]]
                    assert pool is not None
                    rows.append(gathered_rows(np.searchsorted(pool.cells, taken), pool.arrays))
                    cells.append(taken)
                self.load_state_dict({"position": position + 1})
                yield self._batch(rows, np.concatenate(cells))

    def _batch(self, rows: list[tuple[np.ndarray, ...]], cells: np.ndarray) -> dict[str, Any]:
        joined = rows[0] if len(rows) == 1 else tuple(np.concatenate(part) for part in zip(*rows, strict=True))
        index = torch.from_numpy(cells)
        return {
            REGISTRY_KEYS.X_KEY: SparseRows(*map(torch.from_numpy, joined)),
            **{key: values.index_select(0, index) for key, values in self.covariates.items()},
        }

    def _reader(self, epoch: int, pool: int) -> Callable[[Buffers], "_Pool"]:
        def read(buffers: Buffers) -> _Pool:
            self.order.mixed(epoch, pool)  # shuffled here, too
            cells = self.cells[self.order.samples_of(self.order.chunks(epoch, pool))]
            return read_pool(self.counts.source, cells, buffers)

        return read


@dataclass(frozen=True)
class _Pool:
    """Rows in memory."""

    cells: np.ndarray
    """(rows,) their positions in the counts, ascending."""
    arrays: Arrays


def read_pool(source: CountSource, cells: np.ndarray, buffers: Buffers) -> _Pool:
    """Return ascending cells, and what lies between them where reading it too is quicker."""
    pieces = np.split(cells, np.flatnonzero(np.diff(cells) > source.gap) + 1)
    spans: Sequence[Span] = [(int(piece[0]), int(piece[-1]) + 1) for piece in pieces]
    return _Pool(np.concatenate([np.arange(*span) for span in spans]), source.read(spans, buffers))


class _ReadAhead:
    """Results of slow calls in their order, each begun when the one before is handed out; two sets of buffers."""

    def __init__(self, executor: ThreadPoolExecutor, calls: Sequence[Callable[[Buffers], _Pool]]) -> None:
        self._executor, self._calls = executor, list(calls)
        self._buffers = (Buffers(), Buffers())
        self._begun = 0
        self._running: Future[_Pool] | None = None
        self._begin()

    def next(self) -> _Pool:
        """Return the next result; what was returned before is overwritten from now on."""
        assert self._running is not None
        done = self._running.result()
        self._begin()
        return done

    def _begin(self) -> None:
        if self._begun < len(self._calls):
            call, buffers = self._calls[self._begun], self._buffers[self._begun % 2]
            self._running, self._begun = self._executor.submit(call, buffers), self._begun + 1
        else:
            self._running = None


def fits(counts: CountMatrix) -> bool:
    """Return whether counts fit into memory beside the network and other programs."""
    return counts.nbytes <= MEMORY_SHARE * available_memory()


def chosen_shuffle(asked: str, counts: CountMatrix) -> tuple[Literal["exact", "blocks"], str]:
    """Return how cells are shuffled, and why.

    Args:
        asked: "exact": every order of all cells is as likely as any other; "blocks": as `BlockOrder` does; "auto":
            exact if the counts fit into memory beside the rest, blocks otherwise.
        counts: what is trained on.

    Raises:
        UserError: the name is unknown.
    """
    if asked not in get_args(Shuffle):
        raise UserError(f"shuffle must be one of {', '.join(get_args(Shuffle))}, got {asked!r}")
    if isinstance(counts.source, InMemory) and not isinstance(counts.source, Mapped):
        return ("blocks", "as asked") if asked == "blocks" else ("exact", "the counts are in memory")
    sizes = f"{gigabytes(counts.nbytes)} of counts, {gigabytes(available_memory())} of memory available"
    if asked == "auto":
        return ("exact" if fits(counts) else "blocks"), sizes
    if asked == "exact" and not fits(counts):
        logger.warning("An exact shuffle reads every cell by itself from the disk: slow, with %s.", sizes)
    return asked, "as asked"  # pyright: ignore[reportReturnType]

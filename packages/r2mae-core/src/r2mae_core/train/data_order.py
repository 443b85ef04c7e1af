"""Which samples are in which batch, as a pure function of (seed, position): a resumed run continues bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.workers import end_with_caller
from r2mae_core.ratio.randomness import derived_seed
from r2mae_core.train.ranks import rank_and_world_size


@lru_cache(maxsize=16)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of `n` samples in an epoch, (n,) int64, read-only."""
    order = np.random.Generator(np.random.Philox(derived_seed(seed, "order", epoch))).permutation(n)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class BatchOrder:
    """Batches of sample indices. Ranks share the permutation and take turns, so two ranks see what one rank sees
    under an accumulation of two.

    Raises:
        UserError: there are fewer samples than one batch needs.
    """  # noqa: D205

    n_samples: int
    batch_size: int
    seed: int = 0
    drop_last: bool = True
    """Leave out the last, smaller batch of an epoch. Other samples are left out in the next epoch."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.n_samples < 1 or (self.drop_last and self.n_samples < self.batch_size):
            raise UserError(f"{self.n_samples} samples do not fill a batch of {self.batch_size}; lower the batch size")

    def n_batches(self, world_size: int = 1) -> int:
        """Return the batches of an epoch on one rank.

        Raises:
            UserError: the ranks' batches together need more samples than there are, or a smaller last batch would
                leave a rank without one.
        """
        if world_size > 1 and not self.drop_last:
            raise UserError("several ranks need drop_last=True, or one would wait for the other at the epoch's end")
        n = self.n_samples // (self.batch_size * world_size)
        if self.drop_last and n == 0:
            raise UserError(f"{self.n_samples} samples do not fill {world_size} batches of {self.batch_size}")
        return n if self.drop_last else -(-self.n_samples // self.batch_size)

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the sample indices of a rank's batch, (batch_size,) int64.

        Args:
            position: batches that this rank has seen before, over all epochs.
            rank: which rank asks.
            world_size: how many ranks there are.
        """
        epoch, turn = divmod(position, self.n_batches(world_size))
        start = (turn * world_size + rank) * self.batch_size
        # A copy: the cached permutation is read-only, which torch.from_numpy warns about.
        return permutation(self.n_samples, self.seed, epoch)[start : start + self.batch_size].copy()


@dataclass(frozen=True)
class StepOrder:
    """The order of micro-batches for a `ResumableLoader`.

    An epoch is as many whole steps as the samples fill, so that no step straddles two epochs, and the samples of a step
    are the same for every micro-batch size and number of ranks.

    Raises:
        UserError: the samples do not fill a step, or the micro-batch does not divide it.
    """

    n_samples: int
    step_size: int
    """Samples of an optimizer step, over all ranks."""
    micro_size: int
    """Samples that one rank computes at once."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < self.step_size:
            raise UserError(
                f"{self.n_samples:,} samples do not fill a batch of {self.step_size:,}; lower --batch_size or give "
                "more data"
            )

    def n_batches(self, world_size: int = 1) -> int:
        """Return the micro-batches of an epoch on one rank."""
        return self.n_samples // self.step_size * self.micro_batches(world_size)

    def micro_batches(self, world_size: int = 1) -> int:
        """Return the micro-batches of an optimizer step on one rank."""
        per_step, rest = divmod(self.step_size, self.micro_size * world_size)
        if rest or not per_step:
            raise UserError(
                f"a batch of {self.step_size} samples cannot be divided into micro-batches of {self.micro_size} on "
                f"{world_size} device(s); choose a --micro_batch_size that divides it"
            )
        return per_step

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the samples of a rank's micro-batch, (micro_size,) int64."""
        epoch, turn = divmod(position, self.n_batches(world_size))
        start = (turn * world_size + rank) * self.micro_size
        return permutation(self.n_samples, self.seed, epoch)[start : start + self.micro_size].copy()


def micro_batch_size(asked: int | None, batch_size: int, world_size: int, largest: int, *, even: bool = False) -> int:
    """Return the samples that one device computes at once: the requested size, or the largest that divides the batch.

    Args:
        asked: `--micro_batch_size`.
        batch_size: samples of an optimizer step, over all ranks.
        world_size: ranks.
        largest: the most that is taken unasked.
        even: take even numbers alone, unasked.

    Raises:
        UserError: the batch is not a multiple of the requested size, or cannot be shared.
    """
    if asked is not None:
        if asked < 1 or batch_size % (asked * world_size):
            raise UserError(
                f"--batch_size {batch_size} is not a multiple of --micro_batch_size {asked} × {world_size} devices"
            )
        return asked
    for size in range(min(largest, max(batch_size // world_size, 1)), 0, -1):
        if batch_size % (size * world_size) == 0 and not (even and size % 2):
            return size
    raise UserError(f"--batch_size {batch_size} cannot be shared by {world_size} devices")


class _RestOfEpoch:
    """Index batches from the position to the epoch's end; also a DataLoader's batch sampler.

    An object of its own, because a DataLoader that is part of a reference cycle takes seconds to stop its workers.
    """

    def __init__(self, order: BatchOrder | StepOrder) -> None:
        self.order, self.position = order, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        rank, world_size = rank_and_world_size()
        first = self.position
        for position in range(first, first - first % len(self) + len(self)):
            yield self.order.batch(position, rank, world_size)

    def __len__(self) -> int:
        return self.order.n_batches(rank_and_world_size()[1])


def of_worker(error: Exception) -> Exception:
    """Return an error of a loader's worker process as it was raised: torch puts the worker's traceback around it."""
    text = str(error)
    if isinstance(error, UserError) and "Traceback" in text:
        return UserError(text.strip().splitlines()[-1].partition("Error: ")[2])
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "is killed by signal" in text):
        return UserError(
            "a process that loads data was ended from outside, most often because the memory was full; use fewer "
            "--workers"
        )
    return error


class ResumableLoader:
    """Batches in the order of a `BatchOrder` or `StepOrder`, from any position.

    Lightning saves the position in its checkpoints and sets it on resume (its `state_dict` protocol). The epoch ends
    where the permutation does. With workers, the position counts what was handed out, not what was fetched ahead.

    Args:
        order: which samples come when.
        fetch: turns (batch_size,) indices into a batch, in this process. For data in memory or on the device.
        dataset: instead of `fetch`, a map-style data set, read by a torch DataLoader.
        num_workers: processes of that DataLoader.
        collate: joins the samples of a batch; torch's default.
        pin_memory: as in torch's DataLoader.

    Raises:
        ValueError: both or neither of `fetch` and `dataset` are given.
    """

    def __init__(
        self,
        order: BatchOrder | StepOrder,
        fetch: Callable[[np.ndarray], Any] | None = None,
        *,
        dataset: Any = None,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
    ) -> None:
        if (fetch is None) == (dataset is None):
            raise ValueError("give either fetch or dataset")
        self._rest = _RestOfEpoch(order)
        self._fetch, self._loader = fetch, None
        if dataset is not None:
            import torch
            from torch.utils.data import DataLoader

            self._loader = DataLoader(
                dataset,
                batch_sampler=self._rest,  # pyright: ignore[reportArgumentType]
                num_workers=num_workers,
                collate_fn=collate,
                pin_memory=pin_memory,
                persistent_workers=num_workers > 0,
                worker_init_fn=end_with_caller,
                generator=torch.Generator().manual_seed(order.seed % 2**63),
            )

    def __len__(self) -> int:
        return len(self._rest)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(map(self._fetch, self._rest) if self._fetch is not None else self._loader or ())
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (UserError, RuntimeError) as error:
                raise of_worker(error) from None
            self._rest.position += 1
            yield batch

    def batch_at(self, position: int) -> tuple[np.ndarray, Any]:
        """Return the indices and the batch at any position on this rank, read anew in this process."""
        indices = self._rest.order.batch(position, *rank_and_world_size())
        if self._fetch is not None:
            return indices, self._fetch(indices)
        loader: Any = self._loader
        return indices, loader.collate_fn([loader.dataset[index] for index in indices])

    def close(self) -> None:
        """Stop the workers. Left to the garbage collector, each would hold up the process for five seconds."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None and hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
            self._loader._iterator = None  # pyright: ignore[reportOptionalMemberAccess]

    def state_dict(self) -> dict[str, int]:
        """Return the position, for a checkpoint."""
        return {"position": self._rest.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved position."""
        self._rest.position = state["position"]

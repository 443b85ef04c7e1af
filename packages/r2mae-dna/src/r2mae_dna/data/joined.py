"""Several alignment stores of one alignment, such as one per chromosome, read as if they were one."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.data.store import AlignmentStore, content_digest


class JoinedStores(AlignmentStore):
    """Read access to several stores; nothing is copied.

    Args:
        stores: at least two, of the same species in the same order, and of different chromosomes, which keep the order
            of the stores.

    Raises:
        UserError: the species, or whose case the soft-masked letters have, are not the same, or a chromosome is in two
            stores.
    """

    def __init__(self, stores: Sequence[AlignmentStore]) -> None:
        first = stores[0]
        for store in stores[1:]:
            if store.species != first.species or store.n_species != first.n_species:
                raise UserError(f"{store.path} has other species than {first.path}, or another order of them")
            if _case(store) != _case(first):
                raise UserError(
                    f"the soft-masked letters of {store.path} are from another source (maf or fasta) than those of "
                    f"{first.path}; build one of them again with --case"
                )
        self._home: dict[str, AlignmentStore] = {}
        for store in stores:
            for name in store.chromosomes:
                if name in self._home:
                    raise UserError(
                        f"{name} is in {self._home[name].path} and in {store.path}; a chromosome must be in one store"
                    )
                self._home[name] = store
        self._stores = tuple(stores)
        self.path, self.info = Path("+".join(store.path.name for store in stores)), None
        self.chromosomes = list(self._home)
        self.lengths = {name: store.lengths[name] for name, store in self._home.items()}
        self.n_species = first.n_species

    @property
    def species(self) -> tuple[str, ...] | None:
        """Names, the reference first; None if the stores do not name them (published layout)."""
        return self._stores[0].species

    @cached_property
    def digest(self) -> str:
        """Digest of the content: that of the store into which `msa-merge` would join these."""
        digests: dict[str, str] = {}
        for store in self._stores:
            if store.info is None or not store.info.digests:
                return digest_of({"stores": [each.digest for each in self._stores]})
            digests |= store.info.digests
        return content_digest(self.species or (), digests)

    def stretches(self, chromosome: str) -> list[tuple[int, int]]:
        """Return the stretches of a chromosome that may have content."""
        return self._home[chromosome].stretches(chromosome)

    def read(self, chromosome: str, start: int, end: int) -> np.ndarray:
        """Return the bytes of [start, end); see `AlignmentStore.read`."""
        return self._home[chromosome].read(chromosome, start, end)


def _case(store: AlignmentStore) -> str | None:
    return None if store.info is None else store.info.case


def open_stores(path: Path, more: Sequence[Path] = ()) -> AlignmentStore:
    """Open a store, or several as one.

    Raises:
        UserError: see `AlignmentStore` and `JoinedStores`.
    """
    stores = [AlignmentStore(each) for each in (path, *more)]
    return JoinedStores(stores) if more else stores[0]

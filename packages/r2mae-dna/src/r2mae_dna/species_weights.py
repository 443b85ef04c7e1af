"""How much each species' letters count in `pretrain --targets all`: relatives that repeat each other share a weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from r2mae_core import UserError, reading, spread
from r2mae_dna.data.codes import GAP, MASK, TOKEN_BITS
from r2mae_dna.data.windows import WindowSet

SpeciesWeights = Literal["equal", "similarity", "phylogeny"]
SIMILAR = 0.8
"""Identity from which two species count as near copies, as sequences do in direct-coupling analysis."""
MAX_WINDOWS = 1024
"""Windows from which identities are counted."""


def species_weights(kind: SpeciesWeights, windows: WindowSet, tree: Path | None, others: float) -> np.ndarray:
    """Return the weight of every row, (1 + S,) float32: 1 for the reference, `others` for all other species together.

    Args:
        kind: equal; similarity: 1 / the number of rows, itself included, that have at least `SIMILAR` of their bases in
            common with it (Morcos et al. 2011); phylogeny: by the branches of a tree (Gerstein, Sonnhammer and Chothia
            1994). In both the reference counts as a row, so its near copies weigh little.
        windows: the training windows.
        tree: Newick file, for the phylogeny.
        others: sum of the weights of all species beside the reference.

    Raises:
        UserError: the tree is damaged, or lacks a species or a branch length.
    """
    rows = windows.info.n_species + 1
    if kind == "equal":
        found = np.ones(rows)
    elif kind == "similarity":
        found = similarity_weights(_some(windows))
    else:
        if tree is None:
            raise UserError("--species_weights phylogeny needs --tree FILE (Newick)")
        if windows.info.species is None:
            raise UserError("--species_weights phylogeny needs the species' names, and the store does not name them")
        found = phylogeny_weights(read_tree(tree), windows.info.species, str(tree))
    rest = found[1:]
    if rest.sum() <= 0:
        raise UserError(f"{tree}: no species beside the reference has a branch of its own, so none has a weight")
    return np.concatenate([[1.0], others * rest / rest.sum()]).astype(np.float32)


def _some(windows: WindowSet) -> np.ndarray:
    """Return (N, 1 + S) tokens of windows spread over the set."""
    chosen = windows.codes[spread(len(windows), MAX_WINDOWS)]
    return (chosen & TOKEN_BITS).reshape(-1, chosen.shape[-1])


def similarity_weights(codes: np.ndarray) -> np.ndarray:
    """Return 1 / the number of near copies of each row, itself included.

    Args:
        codes: (N, R) tokens. Two rows are compared where both have a base.
    """
    there = ((codes > GAP) & (codes < MASK)).astype(np.float32)
    both = there.T @ there
    same = sum((letter := (codes == base).astype(np.float32)).T @ letter for base in range(GAP + 1, MASK))
    near = (same >= SIMILAR * both) & (both > 0)
    np.fill_diagonal(near, True)
    return 1.0 / near.sum(1)


def read_tree(path: Path) -> Any:
    """Read a Newick file.

    Raises:
        UserError: it is missing, or holds no tree, or several.
    """
    from Bio.Phylo import NewickIO

    if not path.is_file():
        raise UserError(f"no file {path}")
    with reading(path, "a Newick tree"), path.open(encoding="utf-8") as lines:
        trees = list(NewickIO.parse(lines))
    if len(trees) != 1:
        raise UserError(f"{path} holds {len(trees)} Newick trees; one is needed")
    return trees[0]


def phylogeny_weights(tree: Any, species: Sequence[str], where: str) -> np.ndarray:
    """Return the weights of Gerstein, Sonnhammer and Chothia: each branch is shared by the leaves below it.

    From the leaves up, a branch's length is divided among its leaves in proportion to the weights they have so far
    (equally, while these are 0).

    Args:
        tree: a Biopython tree; leaves that are no species of the alignment are left out.
        species: names of the rows.
        where: the tree's file, for messages.

    Raises:
        UserError: a species is not a leaf, or is several; or a branch has no length, or a negative one.
    """
    leaves = [leaf.name for leaf in tree.get_terminals()]
    if missing := [name for name in species if name not in leaves]:
        raise UserError(
            f"{where} lacks {len(missing)} of {len(species)} species ({', '.join(missing[:5])}); its leaves are "
            f"{', '.join(map(str, leaves[:5]))}, …"
        )
    if twice := next((name for name in species if leaves.count(name) > 1), None):
        raise UserError(f"{where} has several leaves {twice!r}")
    wanted = set(species)
    weights = _shared(tree.root, wanted, where, root=True)
    return np.array([weights[name] for name in species])


def _shared(clade: Any, wanted: set[str], where: str, *, root: bool = False) -> dict[str, float]:
    """Return species → weight, for those below a branch."""
    if clade.is_terminal():
        found = {clade.name: 0.0} if clade.name in wanted else {}
    else:
        found = {name: w for child in clade.clades for name, w in _shared(child, wanted, where).items()}
    if root or not found:
        return found
    length = clade.branch_length
    if length is None or not 0 <= length < float("inf"):
        raise UserError(f"{where}: the branch to {', '.join(list(found)[:3])} has the length {length}; one is needed")
    total = sum(found.values())
    share = {name: w / total if total else 1 / len(found) for name, w in found.items()}
    return {name: w + length * share[name] for name, w in found.items()}

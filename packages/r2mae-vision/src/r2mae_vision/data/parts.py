"""Which folders are training and validation part, and which are classes: torchvision's rule, the top folder.

A folder named as a part (train, Training, val, test …; without regard to case) is never a class.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from r2mae_core import UserError
from r2mae_vision.data.trees import Tree

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "validation", "valid", "eval", "evaluation", "dev", "test", "testing")
PARTS = (*TRAIN_NAMES, *VAL_NAMES)


def part_words(*names: str) -> list[str]:
    """Return the parts that names speak of, in small letters: train of "my-train_01", nothing of "trains"."""
    words = [word for name in names for word in re.split(r"[^a-z]+", name.lower())]
    return list(dict.fromkeys(word for word in words if word in PARTS))


class Division(NamedTuple):
    """The folders of a tree that are its parts."""

    train: str
    """Folder of the training part; empty: the whole tree."""
    val: str | None
    """Folder of the validation part, if there is one."""
    aside: dict[str, int]
    """Other folders with images, which belong to neither, and their number of images."""


class Labelled(NamedTuple):
    """The images of one part, in the order of torchvision's ImageFolder: by class, folder and file."""

    names: list[str]
    targets: list[int]
    """-1: no label."""
    classes: tuple[str, ...]
    """Empty: unlabelled."""
    loose: int
    """Images beside the class folders, which have no class and are left out."""


def divide(tree: Tree) -> Division:
    """Find the parts of a tree.

    Raises:
        UserError: a folder may be a part or a class, or two have the same part's name.
    """
    root = _root(tree)
    tops, loose = _tops(tree.names, root), _loose(tree.names, root)
    train, held_out = _named(tops, TRAIN_NAMES), _named(tops, VAL_NAMES)
    others = [name for name in tops if name not in (*train, *held_out)]
    for alike in (train, *([name for name in held_out if name.lower() == one] for one in VAL_NAMES)):
        if len(alike) > 1:
            raise UserError(f"{tree.place} has {' and '.join(alike)}: which is the part? Rename one of them")
    inside = [one.removeprefix(root) for one in tree.folders if one.startswith(root)]
    bare = [one for one in inside if one.lower() in PARTS and one not in tops]
    if bare and (train or (held_out and _named(Counter(bare), TRAIN_NAMES))):
        why = tree.ignored_below(root + bare[0])
        raise UserError(f"{tree.place / root / bare[0]} holds no images{f' (ignored: {why})' if why else ''}")
    if not train:
        if held_out:
            raise UserError(
                f"{tree.place} has a folder {held_out[0]} but none named train: it may be a part or a class. Give the "
                f"folder itself ({held_out[0]}), put a train beside it, or rename it"
            )
        spoken = [part_words(name) for name in tops]
        if len(tops) > 1 and all(spoken) and any(words[0] in TRAIN_NAMES for words in spoken):
            raise UserError(
                f"{tree.place} has {' and '.join(list(tops)[:3])}: they sound like parts, but would be classes. Rename "
                "them train and val, or give one as the data and another as --validation"
            )
        return Division(_wrapper(tree, root), None, {})
    if others and not _tops(tree.names, f"{root}{train[0]}/"):  # images right in it, as the classes beside it have
        if held_out:
            raise UserError(
                f"{tree.place} has {train[0]} and {held_out[0]} beside {others[0]}: they may be parts or classes; "
                "rename them, or move the parts into a folder of their own"
            )
        return Division(root.rstrip("/"), None, {})
    held_out = sorted(held_out, key=lambda name: VAL_NAMES.index(name.lower()))
    aside = {name: tops[name] for name in (*held_out[1:], *others)} | ({"(loose)": loose} if loose else {})
    return Division(f"{root}{train[0]}", f"{root}{held_out[0]}" if held_out else None, aside)


def _root(tree: Tree) -> str:
    """Return the folder whose folders are the parts, if all else lies in folders of a single one; else nothing."""
    root, tops = "", _tops(tree.names, "")
    while not _named(tops, TRAIN_NAMES):
        if len(tops) != 1 or _loose(tree.names, root) or _named(tops, VAL_NAMES):
            return ""
        root = f"{root}{next(iter(tops))}/"
        tops = _tops(tree.names, root)
    return root


def _wrapper(tree: Tree, root: str) -> str:
    """Return the folder in which an archive's class folders lie: `tar cf images.tar images` puts all into one."""
    tops = _tops(tree.names, root)
    if tree.place.is_dir() or len(tops) != 1 or _loose(tree.names, root):
        return root.rstrip("/")
    inner = f"{root}{next(iter(tops))}/"
    return root.rstrip("/") if _loose(tree.names, inner) else inner.rstrip("/")


def label(tree: Tree, folder: str) -> Labelled:
    """Return the images of a folder of the tree with the classes that their top folders name.

    Raises:
        UserError: there are no images, or a class folder holds none.
    """
    inside = f"{folder}/" if folder else ""
    names = [name for name in tree.names if name.startswith(inside)] if inside else tree.names
    place = tree.place / folder
    if not names:
        why = tree.ignored_below(folder)
        raise UserError(f"{place} holds no images{f' (ignored: {why})' if why else ''}")
    tops = _tops(names, inside)
    if not tops:
        return Labelled(sorted(names), [-1] * len(names), (), 0)
    made = [one.removeprefix(inside) for one in tree.folders if one.startswith(inside)]
    if empty := sorted(one for one in made if one and "/" not in one and one not in tops):
        why = tree.ignored_below(inside + empty[0])
        raise UserError(
            f"{place}: no images in class folder {', '.join(empty[:5])} ({len(empty)} in all"
            f"{f'; ignored: {why}' if why else ''}); fill it or remove it"
        )
    for name in sorted(tops):
        below = _tops(names, f"{inside}{name}/")
        if (train := _named(below, TRAIN_NAMES)) and (held_out := _named(below, VAL_NAMES)):
            raise UserError(
                f"{place}: class folder {name} holds {train[0]} and {held_out[0]}, which would be one part; put them "
                f"above the classes: {train[0]}/{name} and {held_out[0]}/{name}"
            )
    classes = tuple(sorted(tops))
    number = {name: i for i, name in enumerate(classes)}
    kept = [name for name in names if "/" in name[len(inside) :]]
    targets = {name: number[name[len(inside) :].split("/", 1)[0]] for name in kept}
    kept.sort(key=lambda name: (targets[name], *posixpath.split(name)))
    return Labelled(kept, [targets[name] for name in kept], classes, len(names) - len(kept))


def _tops(names: Sequence[str], inside: str) -> Counter[str]:
    """Return the folders right inside a folder (its name ends in a slash), and how many images each holds."""
    below = (name[len(inside) :] for name in names if name.startswith(inside))
    return Counter(name.split("/", 1)[0] for name in below if "/" in name)


def _loose(names: Sequence[str], inside: str) -> int:
    """Return how many images lie right in a folder."""
    return sum(name.startswith(inside) and "/" not in name[len(inside) :] for name in names)


def _named(tops: Counter[str], words: Sequence[str]) -> list[str]:
    return sorted(name for name in tops if name.lower() in words)

"""The files of `prepare`: opened together, named apart, each with its layout."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from r2mae_core import UserError
from r2mae_singlecell.data.presets import FILE, AtlasPreset, layout_of
from r2mae_singlecell.data.readers import CountsFile, counts_at, open_content

PLACE = "::"
"""Between a file and the place of its counts, as in `a.h5ad::layers/counts`."""


def with_place(path: Path) -> tuple[Path, str | None]:
    """Return a file, and the place of its counts, if it is named with it."""
    file, _, place = str(path).rpartition(PLACE)
    return (Path(file), place) if file and place and not path.exists() else (path, None)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file: as much of its path as tells it from the others.

    Raises:
        UserError: a file is given twice, or none is given.
    """
    if not paths:
        raise UserError("name at least one file to prepare")
    whole, names = [path.resolve() for path in paths], [path.name for path in paths]
    for i, path in enumerate(whole):
        if path in whole[:i]:
            raise UserError(f"{paths[i]} is given twice")
    for n in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-n:]) for path in whole]
        if len(set(names)) == len(names):
            break
    return names


def opened_files(
    named: Sequence[tuple[Path, str | None]],
    names: list[str],
    preset: str,
    columns: Mapping[str, str | None],
    scratch: Path,
    stack: ExitStack,
) -> tuple[list[CountsFile], list[AtlasPreset]]:
    """Open all files, each with its layout.

    Args:
        named: the files, and where the counts lie in each.
        names: what messages call them.
        preset: see `layout_of`.
        columns: what the user named, see `layout_of`; a column that only another file has is none of a file's.
        scratch: folder for scratch files.
        stack: closes the files.

    Raises:
        UserError: one cannot be read, has no cells, or they are laid out differently.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    files, layouts = [], []
    counts, several = columns.get("counts"), len(named) > 1
    opened = [stack.enter_context(open_content(path)) for path, _ in named]
    everywhere = {str(column) for content in opened for column in content.obs}
    for (path, place), content in zip(named, opened, strict=True):
        here = {str(column) for column in content.obs}
        given = {
            key: column
            for key, column in columns.items()
            if key != "counts"
            and not (several and column in everywhere - here)  # another file has it: these cells have none
        }
        if several and FILE in given.values() and FILE in everywhere:
            raise UserError(f"a file has a column {FILE!r} of its own; rename it, or name another column")
        known = here | {FILE} if several else here
        layout = layout_of(known, preset, {**given, "counts": place or counts}, str(path))
        if not len(content.obs):
            raise UserError(f"{path} has no cells")
        files.append(counts_at(path, content, layout.counts, scratch, stack))
        layouts.append(layout)
    kinds = dict(zip((layout.name for layout in layouts), names, strict=True))
    if len(kinds) > 1:
        told = ", ".join(f"{name} is laid out as {kind}" for kind, name in kinds.items())
        raise UserError(f"{told}; name the columns yourself, with --preset none")
    return files, layouts

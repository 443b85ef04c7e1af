"""Run the notebooks of the documentation from scratch: `python tools/notebooks.py vision text`; without names all.

An error, or a claim that no longer holds (each ends with assertions), fails the run. `--write` keeps the new outputs.
The site shows the outputs that are kept, and runs nothing; a digest of the sources tells whether they belong together.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat

HOME = Path(__file__).parents[1] / "docs" / "notebooks"
KEPT = ("image/png", "text/markdown", "text/html", "text/plain")
"""What of an output is kept, the best first: the site shows one form of each."""
CELL_SECONDS = 1200
_MACHINE = re.compile(
    r"(?<![\w:/.])/(?:home|tmp|root|Users|work|usr|opt|private|var|mnt)/[\w./-]+|[A-Z]:\\\\[\w\\]+|@[0-9a-f]{12}"
)


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """Return the digest of the code, cell by cell; prose may be mended without running it again."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(cells, ensure_ascii=False).encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run every cell in a new kernel, in a folder of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    from nbclient import NotebookClient

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()


def clean(notebook: nbformat.NotebookNode) -> None:
    """Leave of a run what another run gives again: no times, no warnings, no machine, one form of each output."""
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_cleaned, cell.outputs) if output is not None]
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "sources": source_digest(notebook),
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5


def _cleaned(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.output_type == "stream":
        return None if output.name == "stderr" else output
    if "data" in output:
        best = next((kind for kind in KEPT if kind in output.data), None)
        if best is None:
            return None
        output.data = {best: output.data[best]}
        output.metadata = {}
    return output


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what is wrong with the outputs that a notebook keeps, in words."""
    nbformat.validate(notebook)
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if notebook.metadata.get("sources") != source_digest(notebook):
        found.append("the outputs are of other sources; run it again with --write")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("not every cell was run, once and in order")
    for i, cell in enumerate(code, 1):
        for output in cell.outputs:
            text = json.dumps(output, ensure_ascii=False)
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"code cell {i} has an error or a warning: {text[:200]}")
            if re.search(r"<[\w.]+ (object|at 0x|size)", str(output.get("data", {}).get("text/plain", ""))):
                found.append(f"code cell {i} shows an object by its type: {text[:200]}")
            if "image/png" not in text and (place := _MACHINE.search(text)):
                found.append(f"code cell {i} names a place of the machine: {place[0]}")
    if not any(re.search(r"^assert ", cell.source, re.MULTILINE) for cell in code):
        found.append("no cell asserts what the text claims")
    if not any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs):
        found.append("no picture")
    return found


def main(words: list[str]) -> int:
    """Run the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="such as vision; default: all")
    parser.add_argument("--write", action="store_true", help="keep the outputs")
    asked = parser.parse_args(words)
    files = [HOME / f"{name}.ipynb" for name in asked.names] or sorted(HOME.glob("*.ipynb"))
    if lost := [file.stem for file in files if not file.exists()]:
        known = sorted(file.stem for file in HOME.glob("*.ipynb"))
        parser.error(f"no notebook {', '.join(lost)}; there are {', '.join(known)}")
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    failed = []
    for file in files:
        start = time.perf_counter()
        if error := run(file, write=asked.write):
            failed.append(file.stem)
            print(f"{file.stem}: {error}", file=sys.stderr)
        print(f"{file.stem}: {'FAILED' if error else 'done'} in {time.perf_counter() - start:.0f} s", flush=True)
    return bool(failed)


def run(file: Path, *, write: bool) -> str:
    """Run a notebook; keep its outputs if they are whole and asked for. Return what failed, or nothing."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        try:
            execute(notebook, Path(folder))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return str(error)
    clean(notebook)
    if wrong := problems(notebook):
        return "; ".join(wrong)
    if write:
        part = file.with_suffix(".part")
        nbformat.write(notebook, part)
        part.replace(file)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

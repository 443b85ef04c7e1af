"""Draw the documentation's figures again: each is copied from the run folder of the command that the page names.

    ./dev -s figures                              # every figure that needs no download: about half an hour
    ./dev -s figures -- text dna guide-vision     # some of them
    ./dev -s figures -- fig2a fig2d --mnist DIR   # those that need MNIST's four files
    ./dev -s figures -- cifar10 --cifar10 DIR

The figures of `docs/advice.md` come from `python -m studies.advice report`.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
IMAGES = DOCS / "images"
# name: (the command without --out, {file in the run folder: file in docs/images})
FIGURES = {
    "vision": ("r2mae-vision demo", {"figures/demo.png": "demo.png"}),
    "text": ("r2mae-text demo", {"figures/demo.png": "text-demo.png"}),
    "dna": ("r2mae-dna demo", {"figures/demo.png": "dna-demo.png"}),
    "singlecell": (
        "r2mae-singlecell demo",
        {"figures/pearson.png": "singlecell-pearson.png", "figures/umap.png": "singlecell-umap.png"},
    ),
    "theory": (
        "r2mae-theory reproduce all",
        {
            f"figures/{name}.png": f"paper/{name}.png"
            for name in ["fig1a", "fig1b", "fig1c", "fig1d", "fig1e", "fig1f", "fig1g", "fig3", "fig4"]
        },
    ),
    **{
        name: (
            f"r2mae-vision reproduce-mnist {name} -c overparametrised --data {{mnist}}",
            {f"figures/{name}.png": f"{name}.png"},
        )
        for name in ["fig2a", "fig2d"]
    },
    "cifar10": (
        "r2mae-vision reproduce table1 -c cifar10-small --data {cifar10}",
        {"figures/table1.png": "cifar10-table1.png", "figures/curves.png": "cifar10-curves.png"},
    ),
}
# guide: (the file that its own code and commands leave in their folder, options that a verb gets beside the page's)
GUIDES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "core": ("ratios.png", {}),
    "vision": ("run/figures/reconstructions.png", {}),
    "text": ("curves.png", {"pretrain": ["--steps", "800"]}),
    "dna": ("scan/region.png", {}),
    "theory": ("advice/figures/advice.png", {}),
}


def draw_guide(name: str) -> bool:
    """Go through a guide in the present folder until it has drawn its figure; return whether it has."""
    from test_pages import blocks, call, execute

    file, shorter = GUIDES[name]
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(DOCS / "guides" / f"{name}.md"):
        if Path(file).exists():
            break
        if block.kind == "python" and "apart" not in block.marks and not block.missing:
            execute(block, f"guides/{name}.md", namespace)
        elif block.kind == "console" and "run" in block.marks:
            for words in block.commands():
                if words[1] in ("sweep", "report", "push"):  # hours, or what a figure does not need
                    continue
                quiet = ["--no-progress"] if "no-progress" in block.marks["run"] else []
                print(f"$ {' '.join(words)}", flush=True)
                if call([*words, *quiet, *shorter.get(words[1], [])]):
                    return False
    return Path(file).exists()


def main() -> int:
    """Run the commands, copy the figures, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*FIGURES, *(f"guide-{name}" for name in GUIDES)]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(every)}; default: all")
    parser.add_argument("--mnist", help="folder of MNIST's four files")
    parser.add_argument("--cifar10", help="folder of CIFAR-10's binary files")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs, so that an interrupted one resumes")
    given = parser.parse_args()
    if unknown := set(given.names) - set(every):
        parser.error(f"no figure {', '.join(sorted(unknown))}; known: {', '.join(every)}")
    places = {"mnist": given.mnist, "cifar10": given.cifar10}
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = given.runs or Path(scratch)
        for name in given.names or every:
            if (guide := name.removeprefix("guide-")) in GUIDES and guide != name:
                (runs / name).mkdir(parents=True, exist_ok=True)
                with contextlib.chdir(runs / name):
                    if draw_guide(guide):
                        shutil.copyfile(GUIDES[guide][0], IMAGES / f"{name}.png")
                        print(f"  {IMAGES.name}/{name}.png")
                    else:
                        failed.append(name)
                continue
            command, files = FIGURES[name]
            if needed := [place for place, value in places.items() if f"{{{place}}}" in command and value is None]:
                print(f"{name}: left out; it needs --{needed[0]}")
                continue
            # Figures 2A and 2D show the same models.
            out = runs / ("fig2" if name.startswith("fig2") else name)
            words = [*command.format(**places).split(), "--out", str(out)]
            print(f"$ {' '.join(words)}", flush=True)
            script = Path(sys.executable).with_name(words[0])
            if subprocess.run([script, *words[1:]], check=False).returncode:
                failed.append(name)
                continue
            for source, target in files.items():
                shutil.copyfile(out / source, IMAGES / target)
                print(f"  {IMAGES.name}/{target}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

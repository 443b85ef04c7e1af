"""Draw the documentation's figures again: each is copied from the run folder of the command that the page names.

    ./dev -s figures                              # every figure that needs no download: about a quarter of an hour
    ./dev -s figures -- text dna                  # some of them
    ./dev -s figures -- fig2a fig2d --mnist DIR   # those that need MNIST's four files
    ./dev -s figures -- cifar10 --cifar10 DIR

The figures of `docs/advice.md` come from `python -m studies.advice report`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
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


def main() -> int:
    """Run the commands, copy the figures, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--mnist", help="folder of MNIST's four files")
    parser.add_argument("--cifar10", help="folder of CIFAR-10's binary files")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs, so that an interrupted one resumes")
    given = parser.parse_args()
    if unknown := set(given.names) - set(FIGURES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; known: {', '.join(FIGURES)}")
    places = {"mnist": given.mnist, "cifar10": given.cifar10}
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = given.runs or Path(scratch)
        for name in given.names or FIGURES:
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

"""The fuzz of `nox -s fuzz`, as one of the kinds that are tried."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.reliability.job import Outcome


def fuzz(package: str, n: int, seed: int) -> list[Outcome]:
    """Try so many mutated commands of a package; one outcome for what was well, and one for each distinct failure."""
    with tempfile.TemporaryDirectory(prefix="r2mae-fuzz-") as folder:
        file = Path(folder) / "fuzz.json"
        words = ["--only", package, "--n", str(n), "--seed", str(seed), "--json", str(file)]
        done = subprocess.run(
            [sys.executable, "-m", "tools.fuzz", *words], capture_output=True, text=True, errors="replace", check=False
        )
        if not file.exists():
            message = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
            return [Outcome(package, "fuzz", "the fuzz itself", "other", message)]
        found = json.loads(file.read_text())
    bad = [
        Outcome(
            package,
            "fuzz",
            f"{row['verb']} ({row['place']}), {row['times']}×",
            "traceback" if "traceback" in row["problem"] else "other",
            row["problem"],
            (row["command"], f"# again: {row['again']}"),
            row["times"],
        )
        for row in found["failures"]
    ]
    tried = sum(found["tried"].values())
    return [Outcome(package, "fuzz", "mutated commands", "good", n=tried - sum(row.n for row in bad)), *bad]

"""`python -m studies.evidence add NAME RUN` and `report`."""

import argparse
import sys
from pathlib import Path

from r2mae_core import UserError
from studies.evidence.report import write_report
from studies.evidence.sources import add


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m studies.evidence", description="Does R2MAE help?")
    verbs = parser.add_subparsers(dest="verb", required=True)
    keep = verbs.add_parser("add", help="keep the results of a run folder")
    keep.add_argument("name", help="of the file in studies/evidence/results; a new one needs a line in sources.py")
    keep.add_argument("run", type=Path, help="a run folder with results.json")
    report = verbs.add_parser("report", help="write the page's tables and the figure")
    report.add_argument("--docs", type=Path, default=Path("docs"))
    given = parser.parse_args()
    try:
        if given.verb == "add":
            print(add(given.name, given.run))
        else:
            write_report(given.docs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""python -m star_jax.train report RUN… [--output FILE]

One page about a run, or about several beside each other: RUN/report.html, of several ./report.html.
Open it in a browser; it is one file and needs nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from star_jax.train.report import page

NAME = "report.html"
OK, MISTAKE = 0, 2


def command(argv: Sequence[str]) -> int:
    """→ the exit status: 0, or 2 with a sentence about what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m star_jax.train report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (see above)")
    given = parser.parse_args(list(argv))
    alone = given.runs[0] / NAME if len(given.runs) == 1 else Path(NAME)
    try:
        out = page.write(given.runs, given.output or alone)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"star_jax.train: {error}\n")
        return MISTAKE
    sys.stdout.write(f"{out}: written\n")
    return OK

"""The page that a person looks at after a run: report.html, one file without anything beside it.

write(folders, out) → out      one run, or several compared
collect(folder) → Run          everything that the page is made of
command(argv) → exit status    python -m star_jax.train report

A run's folder → collect → words, marks, tables, figures, browse → page
"""

from star_jax.train.report.cli import command
from star_jax.train.report.page import write
from star_jax.train.report.run import Run, collect

__all__ = ["Run", "collect", "command", "write"]

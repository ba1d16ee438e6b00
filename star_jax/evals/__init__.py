"""What a model can do, measured: BFCL v3 and v4, ACEBench Normal, pass@k, and honest comparisons.

    an answer and a benchmark's entry → Verdict            bfcl.check, acebench.check
    counts of every category → the published averages      bfcl.aggregate, acebench.aggregate
    a model's folder, or a server → all of it              python -m star_jax.evals, running/

Checkers need the standard library alone and run nothing that a model wrote. `docs/evals.md` tells
how to run them; its pages tell where the official checkers are odd, and that we follow them there.
"""

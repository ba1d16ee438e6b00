"""Benchmarks, run: entries → questions → a model folder or a server → lines, scores, a page.

    bfcl, acebench   entries as tasks, which ask once or through a dialogue; their verdicts
    passk            many samples of every row of a file
    compare          two folders of results over the same entries

A run writes a line as each entry ends (OUTPUT/answers.jsonl). Killed, the same command goes on.
"""

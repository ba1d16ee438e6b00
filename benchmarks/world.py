"""What the embedded world is made of, in numbers: lengths, what one fixed reply earns, speed.

    python benchmarks/world.py [--rows 2000]

Lengths are tokens of the world's own tokenizer. The fixed reply is the best, by Sim-RL, of all
right replies in words, each given to every prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import numpy as np

from star_jax import chat, rewards, world
from star_jax.data import trainset
from star_jax.data.encode import Tokenizer
from star_jax.world import files

REPLIED_TO = 1200  # prompts that the fixed reply is tried on

Made = tuple[world.Row, str, str]  # with its prompt and its target


def examples(rows: Iterable[world.Row]) -> list[Made]:
    found = []
    for row in rows:
        made = trainset.native(files.conversation(row), chat.render)
        found.append((row, made["inputs"], made["targets"]))
    return found


def lengths(split: str, made: list[Made], tokenizer: Tokenizer) -> None:
    count = np.array(
        [
            [len(ids) for ids in tokenizer.encode([prompt for _, prompt, _ in made])],
            [len(ids) for ids in tokenizer.encode([target for _, _, target in made])],
        ]
    )
    case = np.array([row["case"] for row, _, _ in made])
    print(f"{split:<20}  rows   prompt: median  p95  max   target: median  p95  max")
    for name in (*world.CASES, "all"):
        chosen = count[:, (case == name) | (name == "all")]
        numbers = [int(f(part)) for part in chosen for f in (np.median, _p95, np.max)]
        low, high = numbers[:3], numbers[3:]
        print(
            f"  {name:<18}  {chosen.shape[1]:>4}           "
            + "{:>6} {:>4} {:>4}".format(*low)
            + "           {:>6} {:>4} {:>4}".format(*high)
        )


def _p95(values: np.ndarray) -> float:
    return float(np.percentile(values, 95))


def fixed_reply(made: list[Made]) -> None:
    wordy = [one for one in made if "<tool_call>" not in one[2]]
    calling = [one for one in made if "<tool_call>" in one[2]]

    def mean(reply: str, chosen: list[Made]) -> float:
        scores = [rewards.simrl(reply, target, row["tools"]).total for row, _, target in chosen]
        return float(np.mean(scores))

    best = max({target for _, _, target in wordy}, key=lambda reply: (mean(reply, wordy), reply))
    print(f"one reply for all: {chat.parse(best).reply!r}")
    for name, chosen in (("words", wordy), ("calls", calling), ("all", made)):
        print(f"  prompts for {name:<6} {len(chosen):>5}  mean Sim-RL {mean(best, chosen):.3f}")
    for case in ("irrelevant", "missing", "after_result"):
        chosen = [one for one in wordy if one[0]["case"] == case]
        each = max(mean(target, chosen) for _, _, target in chosen)
        print(f"  the best of its own for {case:<14} mean Sim-RL {each:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="of each split (2000)")
    count = parser.parse_args().rows
    tokenizer = Tokenizer(world.TOKENIZER)
    for split in world.SPLITS:
        lengths(split, examples(world.rows(split, 0, count)), tokenizer)
    fixed_reply(examples(world.rows("train", 7, REPLIED_TO)))
    start = time.process_time()
    for _ in world.rows("train", 5, count):
        pass
    print(f"{count / (time.process_time() - start):.0f} rows per second of one core")


if __name__ == "__main__":
    main()

"""What a mask costs: python benchmarks/grammar.py TOKENIZER_FOLDER [--vocab 151936]

Times of one process on one core: compiling, starting, and the masks of a completion with two calls
and of a long think block.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from star_jax.data.encode import Tokenizer
from star_jax.sampler import grammar

TOOLS = [
    {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F", "K"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
            },
            "required": ["city"],
        },
    },
    {
        "name": "book",
        "parameters": {
            "type": "object",
            "properties": {
                "legs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"to": {"type": "string"}, "km": {"type": "number"}},
                        "required": ["to", "km"],
                    },
                },
                "tags": {"type": "array", "items": {"type": ["string", "boolean"]}},
            },
            "required": ["legs"],
        },
    },
    {"name": "now"},
]
CALLS = (
    "<think>\nFirst the weather, then the train.\n</think>\n\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich, the \\"old\\" town", '
    '"unit": "K", "days": 3}}\n</tool_call>\n'
    '<tool_call>\n{"name": "book", "arguments": {"legs": [{"to": "Bern", "km": 120.5}], '
    '"tags": ["night", true]}}\n</tool_call><|im_end|>'
)
THOUGHT = "<think>\n" + "Which of the three tools answers this, and with what arguments? " * 800


def timed(name: str, made: grammar.Grammar, ids: Sequence[int]) -> None:
    state, spent = made.start(), np.zeros((len(ids), 2))
    for row, i in zip(spent, ids, strict=True):
        begin = time.perf_counter()
        state.mask()
        middle = time.perf_counter()
        state.take(i)
        row[:] = middle - begin, time.perf_counter() - middle
    mask, take = spent.T * 1e6
    print(
        f"{name}, {len(ids):,} tokens: mask {np.median(mask):.0f} µs in the median, "
        f"{np.percentile(mask, 99):.0f} at 99 %; take {np.median(take):.0f} µs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="with a tokenizer.json of Qwen3")
    parser.add_argument("--vocab", type=int, default=151_936)
    args = parser.parse_args()
    tokenizer = Tokenizer(args.folder)

    def compiled(number: int) -> tuple[grammar.Grammar, float]:
        tools = [*TOOLS, {"name": f"tool_{number}"}]
        begin = time.perf_counter()
        made = grammar.compile(
            tokenizer, tools, vocab_size=args.vocab, stop_ids=[tokenizer.end_of_turn]
        )
        return made, time.perf_counter() - begin

    made, first = compiled(0)
    others = [compiled(number)[1] for number in range(1, 21)]
    again = [compiled(0)[1] for _ in range(100)]
    print(
        f"compile: {first:.1f} s with a new tokenizer, {np.median(others) * 1e3:.1f} ms "
        f"with new tools, {np.median(again) * 1e3:.2f} ms with known ones"
    )
    (calls,), (thought,) = tokenizer.encode([CALLS]), tokenizer.encode([THOUGHT])
    timed("two calls", made, calls)
    timed("two calls again", made, calls)
    timed("a think block", made, thought)


if __name__ == "__main__":
    main()

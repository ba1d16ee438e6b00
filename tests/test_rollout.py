"""Who waits, who is decoded and who leaves: over an engine that decodes by a formula."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from star_jax.sampler import request, rows
from star_jax.sampler.request import Piece, Request, Sample, Settings
from star_jax.sampler.rollout import Rollout
from star_jax.sampler.sizes import ladder

VOCAB = 50
END = 49


def token_of(position: int, key: int) -> int:
    return (position * 7 + key) % VOCAB


class Formula:
    """The next token of a row by its position and key. It checks what it is asked for: prompts are
    where rows say they are, no ring is outgrown, nothing is decoded twice."""

    max_top, vocab_size, is_warm = 2, VOCAB, False

    def __init__(self, slots: int, group: int, max_len: int = 400) -> None:
        self.slots, self.group, self.max_len = slots, group, max_len
        self.prompts_read: list[int] = []
        self.steps = self.row_steps = 0
        self.sizes: list[tuple[int, int]] = []

    def state(self, S: int, C: int) -> dict[str, Any]:
        self.sizes.append((S, C))
        return {"S": S, "C": C, "now": 0, "prompts": {}}

    def restart(self, state: Any) -> Any:
        return {**state, "now": 0}

    def resize(self, state: Any, S: int, C: int) -> Any:
        self.sizes.append((S, C))
        return {**state, "S": S, "C": C}

    def read(self, prompts: Sequence[np.ndarray], T: int) -> list[tuple[Any, dict[int, Any]]]:
        assert all(len(prompt) <= T for prompt in prompts)
        self.prompts_read += [len(prompt) for prompt in prompts]
        # In two calls, as a large batch is read.
        half = len(prompts) // 2
        parts = [range(half), range(half, len(prompts))]
        return [(object(), {i: prompts[i] for i in part}) for part in parts if len(part)]

    def place(self, state: Any, prefix: Any, jobs: Sequence[tuple[int, Any]]) -> Any:
        assert all(len(prompt) <= state["S"] for _, prompt in jobs)
        return {**state, "prompts": state["prompts"] | dict(jobs)}

    def decode(
        self, state: Any, rows_BW: Any, *, steps: int, ends: int, allowed_BW: Any, top: int
    ) -> tuple[Any, np.ndarray, Any]:
        table, made, ended = np.array(rows_BW), [], 0
        while len(made) < steps and ended < ends and rows.is_live(table).any():
            token_B = np.full(len(table), -1)
            for row in np.flatnonzero(rows.is_live(table)):
                position, started, count, limit = table[row, 1:5]
                assert len(state["prompts"][row // self.group]) == position - count
                assert state["now"] - started == count < state["C"]
                token = token_of(position, int(table[row, 6]) % 5)
                if allowed_BW is not None and not allowed_BW[row, token // 32] >> token % 32 & 1:
                    token = next(
                        t for t in range(VOCAB) if allowed_BW[row, t // 32] >> np.uint32(t % 32) & 1
                    )
                token_B[row] = token
                table[row, :2] = token, position + 1
                table[row, 3] += 1
                if token in table[row, rows.FIXED :] or count + 1 == limit:
                    rows.kill(table, row)
                    ended += 1
                self.row_steps += 1
            made.append(token_B)
            state = {**state, "now": state["now"] + 1}
        self.steps += len(made)
        token_TB = np.array(made, np.int32).reshape(-1, len(table))
        log_p_TB = (-token_TB).astype(np.float32)
        top_TBA = np.zeros((*token_TB.shape, top), np.int32)
        burst = type("Burst", (), {})()
        burst.token_TB, burst.raw_TB, burst.drawn_TB = token_TB, log_p_TB, log_p_TB
        burst.top_id_TBA, burst.top_raw_TBA = top_TBA, top_TBA.astype(np.float32)
        return state, table, burst


def ask(length: int, n: int = 1, most: int = 20, seed: int = 0, **how: Any) -> Request:
    prompt = np.arange(length, dtype=np.int32) % VOCAB
    settings = Settings(max_new_tokens=most, seed=seed, stop_ids=(END,), **how)
    return Request(prompt, n, settings, request.name_of(prompt, seed))


def wanted(asked: Request, sample: int) -> list[int]:
    key = int(request.key_of(asked, sample).view(np.int32)[0]) % 5
    made: list[int] = []
    while len(made) < asked.settings.max_new_tokens and END not in made:
        made.append(token_of(len(asked.prompt) - 1 + len(made), key))
    return made


def finish(rollout: Rollout, pieces: list[Piece] | None = None) -> dict[tuple[int, int], Sample]:
    pieces = [] if pieces is None else pieces
    while rollout.is_busy:
        pieces += rollout.step()
    parts: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        parts.setdefault((piece.ticket, piece.sample), []).append(piece)
    assert all(piece.end is None for part in parts.values() for piece in part[:-1])
    return {which: request.join(part) for which, part in parts.items()}


@pytest.mark.parametrize("seed", range(8))
def test_everybody_gets_what_was_asked_for(seed: int) -> None:
    """Random requests that come while others are decoded, in slots and groups of any size."""
    rng = random.Random(seed)
    engine = Formula(rng.randint(1, 6), rng.choice([1, 2, 5]))
    rollout = Rollout(engine, rooms=(3, 40), reply_rooms=(4, 16), patience=rng.choice([None, 3]))
    asked, pieces = {}, []
    for turn in range(60):
        one = ask(rng.randint(1, 90), rng.randint(1, 7), rng.randint(1, 60), seed=turn)
        asked[rollout.submit(one)] = one
        for _ in range(rng.randint(0, 3)):
            pieces += rollout.step()
    made = finish(rollout, pieces)
    assert made.keys() == {(t, i) for t, one in asked.items() for i in range(one.n)}
    for (ticket, sample), found in made.items():
        whole = wanted(asked[ticket], sample)
        assert found.tokens.tolist() == whole
        assert found.logprobs.tolist() == [-token for token in whole]
        assert found.end == ("stop" if whole[-1] == END else "length")
    assert len(engine.prompts_read) == 60  # each once, whatever its n
    assert sorted(engine.prompts_read) == sorted(len(one.prompt) - 1 for one in asked.values())
    assert rollout._slots == [None] * engine.slots
    assert not rollout._open


def test_a_cancelled_request_frees_its_slot_and_says_so() -> None:
    rollout = Rollout(Formula(2, 2), patience=2)
    tickets = [rollout.submit(ask(5, 3, 300, seed=i)) for i in range(3)]
    pieces = rollout.step()
    rollout.cancel(tickets[0])
    rollout.cancel(tickets[2])  # one that waits
    rollout.cancel(99)  # one that never was
    made = finish(rollout, pieces)
    ends = {which: sample.end for which, sample in made.items()}
    assert ends[0, 0] == ends[0, 1] == "cancelled"
    assert [ends[1, i] for i in range(3)] != ["cancelled"] * 3
    assert rollout._slots == [None, None]
    again = rollout.submit(ask(5))
    assert finish(rollout)[again, 0].end in ("stop", "length")


def test_every_sample_of_a_cancelled_request_ends() -> None:
    """Those that had no slot yet as well: who counts samples does not wait for ever."""
    rollout = Rollout(Formula(1, 2), patience=2)
    ticket = rollout.submit(ask(5, 5, 300))
    pieces = rollout.step()
    rollout.cancel(ticket)
    made = finish(rollout, pieces)
    assert {which: sample.end for which, sample in made.items()} == {
        (ticket, i): "cancelled" for i in range(5)
    }


def test_room_grows_only_as_it_is_needed() -> None:
    engine = Formula(1, 1)
    rollout = Rollout(engine, rooms=(8, 64), reply_rooms=(4, 8, 32))
    for length, most in ((5, 3), (6, 30), (60, 2)):
        rollout.submit(ask(length, 1, most))
        finish(rollout)
    assert engine.sizes[0] == (8, 4)
    assert engine.sizes[-1][0] == 64
    assert max(C for _, C in engine.sizes) <= 32


class OnlyEven:
    """A grammar whose completions are even tokens, three of them, and then the end."""

    def start(self) -> OnlyEven:
        made = OnlyEven()
        made.count = 0
        return made

    def mask(self) -> np.ndarray:
        allowed = [END] if self.count >= 3 else range(0, VOCAB, 2)
        words = np.zeros(2, np.uint32)
        for token in allowed:
            words[token // 32] |= np.uint32(1 << token % 32)
        return words

    def take(self, token: int) -> None:
        assert token == END if self.count >= 3 else token % 2 == 0
        self.count += 1


def test_a_grammar_binds_its_own_row_alone() -> None:
    rollout = Rollout(Formula(3, 1))
    free, bound = ask(5, 2), ask(7, 1, seed=1)
    tickets = [rollout.submit(one) for one in (free, Request(*vars(bound).values()))]
    made = finish(rollout)
    assert made[tickets[0], 0].tokens.tolist() == wanted(free, 0)
    strict = rollout.submit(
        Request(bound.prompt, 1, bound.settings, bound.name, grammar=OnlyEven())
    )
    loose = rollout.submit(free)
    made = finish(rollout)
    tokens = made[strict, 0].tokens.tolist()
    assert len(tokens) == 4
    assert tokens[-1] == END
    assert made[loose, 0].tokens.tolist() == wanted(free, 0)


def test_sizes() -> None:
    assert ladder(None, 64, 200, "rooms") == (64, 96, 128, 192, 256)
    assert ladder((7, 3, 7), 64, 5, "rooms") == (3, 7)
    assert ladder((3,), 64, 10, "rooms") == (3, 10)
    with pytest.raises(ValueError, match=r"rooms must be sizes of at least 1, got \[0\]"):
        ladder((0,), 64, 10, "rooms")

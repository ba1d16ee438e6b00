"""One rollout of RL: prompts → samples → rewards → the groups that are worth learning from.

fill(asker, start, …) → Rollout      whole groups; as many as a rollout trains on, if there are
write(path, …), read(path, …)        OUTPUT/rollouts/NNNNNN.parquet, all that a resumed run needs

Prompts come in the order of their places: place p is prompt order(seed, p // P)[p mod P]. A group
that was accepted and is not needed yet is carried over to the next rollout; none is lost and none
is trained on twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_jax import chat
from star_jax.data import feed
from star_jax.rewards import Reward
from star_jax.sampler.request import Sample
from star_jax.train.prompts import Prompt, Prompts

Use = Literal["now", "later", "no"]
FORMAT = "1"


class Starved(RuntimeError):
    """Prompts were asked again and again, and hardly a group was worth learning from."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One sample and what it is worth. What the trainer says of it is known of those that are
    trained on now."""

    tokens: np.ndarray  # int32
    logps: np.ndarray  # float32, the sampler's, at temperature 1
    end: str
    text: str  # from its <think> on
    reward: float
    format: float
    answer: float
    kind: str  # what decided the reward, in a word
    why: str
    advantage: float | None = None
    old_logps: np.ndarray | None = None  # float32, the trainer's, as the rollout begins
    ref_logps: np.ndarray | None = None  # float32, the reference's
    guided: bool = False  # not the policy's: the row's own target


@dataclass(frozen=True, kw_only=True)
class Group:
    """The answers to one prompt."""

    place: int
    prompt: int
    drawn_at: int  # the rollout whose policy said them
    answers: tuple[Answer, ...]
    use: Use = "no"

    @property
    def own(self) -> tuple[Answer, ...]:
        """What the policy said itself."""
        return tuple(answer for answer in self.answers if not answer.guided)

    @property
    def rewards(self) -> np.ndarray:
        return np.array([answer.reward for answer in self.answers])

    @property
    def scores(self) -> np.ndarray:
        """The answer's part of the reward, which STAR's filter looks at: 0 for a bad format."""
        return np.array([answer.answer for answer in self.answers])


@dataclass(frozen=True, kw_only=True)
class Rollout:
    number: int
    next_place: int
    groups: tuple[Group, ...]  # carried ones first, then those that were asked, in their order

    @property
    def chosen(self) -> tuple[Group, ...]:
        """What is trained on now."""
        return tuple(group for group in self.groups if group.use == "now")

    @property
    def carried(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.use == "later")

    @property
    def fresh(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.drawn_at == self.number)


Ask = Callable[[Sequence[Prompt], Sequence[bytes], int], list[list[Sample]]]
Keep = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rewards, scores [P, G] → bool [P]


@dataclass(frozen=True, kw_only=True)
class Asker:
    """How prompts become groups."""

    prompts: Prompts
    seed: int
    places: int  # prompts that the whole run asks, repeated ones counted again
    ask: Ask  # prompts, their names, the rollout's number → samples
    decode: Callable[[Any], str]
    score: Callable[[str, str, Sequence[Any]], Reward]
    keep: Keep
    most_batches: int
    samples: int  # answers to a prompt
    own_share: float = 1.0  # of the prompts, those that the policy answers
    guide: bool = False  # the last answer is the row's own target
    parts: int = 1  # in which prompts are asked

    def prompt(self, place: int) -> int:
        count = len(self.prompts)
        return int(feed.order(self.seed, place // count, count)[place % count])

    def groups(self, places: Sequence[int], number: int) -> list[Group]:
        """Asked part by part; the answers of one are judged while the next one is asked."""
        size = -(-len(places) // self.parts)
        parts = [places[i : i + size] for i in range(0, len(places), size)]
        with ThreadPoolExecutor(1, thread_name_prefix="rewards") as pool:
            judged = [
                pool.submit(self._judged, part, self._asked(part, number), number) for part in parts
            ]
        return [group for future in judged for group in future.result()]

    def _asked(self, places: Sequence[int], number: int) -> dict[int, list[Sample]]:
        """What the policy says, by place, where it is asked."""
        own = [place for place in places if self._is_own(place)]
        if not own:
            return {}
        rows = [self.prompts.rows[self.prompt(place)] for place in own]
        names = [str(place).encode() for place in own]
        return dict(zip(own, self.ask(rows, names, number), strict=True))

    def _judged(
        self, places: Sequence[int], said: dict[int, list[Sample]], number: int
    ) -> list[Group]:
        made = []
        for place in places:
            index = self.prompt(place)
            answers = self._answers(self.prompts.rows[index], said.get(place, []))
            made.append(Group(place=place, prompt=index, drawn_at=number, answers=answers))
        return made

    def _is_own(self, place: int) -> bool:
        """Whether the policy answers the prompt of this place: a fixed draw."""
        made = hashlib.blake2b(f"{self.seed} {place}".encode(), digest_size=7).digest()
        return int.from_bytes(made, "big") < self.own_share * 2**56

    def _answers(self, row: Prompt, said: Sequence[Sample]) -> tuple[Answer, ...]:
        own = [self._answer(row, sample) for sample in said]
        # One for a guide; all of them where the policy is not asked.
        return (*own, *(self._target(row) for _ in range(self.samples - len(own))))

    def _target(self, row: Prompt) -> Answer:
        """The row's own target, as an answer."""
        reward = self.score(row.label, row.label, row.tools)
        return Answer(
            tokens=row.target_ids,
            logps=np.zeros(len(row.target_ids), np.float32),
            end="target",
            text=row.label,
            reward=float(reward.total),
            format=float(reward.format),
            answer=float(reward.answer),
            kind=reward.kind,
            why=reward.why,
            guided=True,
        )

    def _answer(self, row: Prompt, sample: Sample) -> Answer:
        text = row.opening + self.decode(sample.tokens)
        reward = self.score(text, row.label, row.tools)
        return Answer(
            tokens=np.asarray(sample.tokens, np.int32),
            logps=np.asarray(sample.logprobs, np.float32),
            end=sample.end,
            text=text,
            reward=float(reward.total),
            format=float(reward.format),
            answer=float(reward.answer),
            kind=reward.kind,
            why=reward.why,
        )


def fill(
    asker: Asker, number: int, start: int, carried: Sequence[Group], want: int, least: int = 1
) -> Rollout:
    """Ask prompts from place `start` on until `want` groups are accepted or none is left; at least
    `least` prompts at a time, so that the sampler has enough to do."""
    accepted = list(carried)
    tried: list[Group] = []
    place, batches = start, 0
    while len(accepted) < want and place < asker.places:
        if batches == asker.most_batches:
            raise Starved(_starved(number, tried, len(accepted), want))
        count = min(max(want - len(accepted), least), asker.places - place)
        asked = asker.groups(range(place, place + count), number)
        kept_P = asker.keep(
            np.stack([group.rewards for group in asked]), np.stack([g.scores for g in asked])
        )
        tried += asked
        accepted += [group for group, is_kept in zip(asked, kept_P, strict=True) if is_kept]
        place, batches = place + count, batches + 1
    uses: dict[int, Use] = {
        group.place: "now" if i < want else "later" for i, group in enumerate(accepted)
    }
    groups = [
        dataclasses.replace(group, use=uses.get(group.place, "no")) for group in [*carried, *tried]
    ]
    return Rollout(number=number, next_place=place, groups=tuple(groups))


def _starved(number: int, tried: Sequence[Group], accepted: int, want: int) -> str:
    kinds = Counter(answer.kind for group in tried for answer in group.answers)
    common = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(4))
    flat = sum(group.rewards.min() == group.rewards.max() for group in tried)
    return (
        f"rollout {number}: {len(tried)} prompts gave {accepted} of {want} groups to learn from; "
        f"in {flat} of them all samples are worth the same, and the samples were: {common}: train "
        "the model further before RL, raise rollout.samples or rollout.temperature, or set "
        "filter.rule to all"
    )


# On the disk

COLUMNS = {
    "rollout": pa.int64(),
    "place": pa.int64(),
    "prompt_index": pa.int64(),
    "drawn_at": pa.int64(),
    "row_id": pa.string(),
    "line": pa.int64(),
    "sample": pa.int64(),
    "wanted": pa.string(),
    "prompt": pa.string(),
    "generation": pa.string(),
    "calls": pa.string(),  # JSON
    "label": pa.string(),
    "reward": pa.float64(),
    "format": pa.float64(),
    "answer": pa.float64(),
    "kind": pa.string(),
    "why": pa.string(),
    "advantage": pa.float64(),
    "end": pa.string(),
    "use": pa.string(),
    "guided": pa.bool_(),
    "tokens": pa.list_(pa.int32()),
    "logps": pa.list_(pa.float32()),
    "old_logps": pa.list_(pa.float32()),
    "ref_logps": pa.list_(pa.float32()),
}


def write(path: Path, rollout: Rollout, prompts: Prompts) -> None:
    """Whole or not at all."""
    rows = list(_rows(rollout, prompts))
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    meta = {"star_jax.format": FORMAT, "star_jax.next_place": str(rollout.next_place)}
    table = pa.table(columns).replace_schema_metadata(meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _rows(rollout: Rollout, prompts: Prompts) -> Iterator[dict[str, Any]]:
    for group in rollout.groups:
        row = prompts.rows[group.prompt]
        for sample, answer in enumerate(group.answers):
            calls = [[call.name, call.arguments] for call in chat.parse(answer.text).calls]
            yield {
                "rollout": rollout.number,
                "place": group.place,
                "prompt_index": group.prompt,
                "drawn_at": group.drawn_at,
                "row_id": row.row_id,
                "line": row.line,
                "sample": sample,
                "wanted": row.wanted,
                "prompt": _clean(row.text),
                "generation": _clean(answer.text),
                "calls": json.dumps(calls),
                "label": _clean(row.label),
                "reward": answer.reward,
                "format": answer.format,
                "answer": answer.answer,
                "kind": answer.kind,
                "why": _clean(answer.why),
                "advantage": answer.advantage,
                "end": answer.end,
                "use": group.use,
                "guided": answer.guided,
                "tokens": answer.tokens,
                "logps": answer.logps,
                "old_logps": answer.old_logps,
                "ref_logps": answer.ref_logps,
            }


def _clean(text: str) -> str:
    """Halves of surrogate pairs, which no file can hold, as \\uXXXX."""
    return text.encode(errors="backslashreplace").decode()


def read(path: Path, prompts: Prompts) -> Rollout:
    """What `write` wrote, but for generations that had to be escaped."""
    try:
        table = pq.read_table(path)
        next_place = int(table.schema.metadata[b"star_jax.next_place"])
        rows = table.to_pylist()
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: is no rollout ({error}): move it away, and it is sampled again"
        ) from error
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["place"], []).append(row)
    made = []
    for place, members in groups.items():
        first = members[0]
        if first["prompt_index"] >= len(prompts):
            raise ValueError(f"{path}: is of other prompts: move it away")
        made.append(
            Group(
                place=place,
                prompt=first["prompt_index"],
                drawn_at=first["drawn_at"],
                use=first["use"],
                answers=tuple(_answer_of(row) for row in members),
            )
        )
    number = rows[0]["rollout"] if rows else 0
    return Rollout(number=number, next_place=next_place, groups=tuple(made))


def _answer_of(row: dict[str, Any]) -> Answer:
    return Answer(
        tokens=np.array(row["tokens"], np.int32),
        logps=np.array(row["logps"], np.float32),
        end=row["end"],
        text=row["generation"],
        reward=row["reward"],
        format=row["format"],
        answer=row["answer"],
        kind=row["kind"],
        why=row["why"],
        advantage=row["advantage"],
        old_logps=_floats(row["old_logps"]),
        ref_logps=_floats(row["ref_logps"]),
        guided=bool(row.get("guided")),
    )


def _floats(values: list[float] | None) -> np.ndarray | None:
    return None if values is None else np.array(values, np.float32)

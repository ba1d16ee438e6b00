"""A run's folder made of invented numbers, as a curriculum leaves it; and a page, taken apart.

write(folder, …) → folder      made(folder, *runs) → the page's text, and what it is made of
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_jax import chat, world
from star_jax.train import report
from star_jax.train.report import markup
from star_jax.train.rollouts import COLUMNS

SETS = {"seen": 400, "unseen_tools": 300}
KINDS = ("bad_json", "unknown_tool", "unclosed_call", "unknown_argument")
STAGES: tuple[tuple[str, str, str | None], ...] = (
    ("before", "evaluate", None),
    ("teacher", "teacher", None),
    ("ckd", "ckd", "ckd"),
    ("after-ckd", "evaluate", None),
    ("rl", "rl", "sim-rl"),
    ("after-rl", "evaluate", None),
    ("export", "export", None),
)
EXACT = {"before": 0.22, "after-ckd": 0.41, "after-rl": 0.52}  # where a call is due
CALLS, LATE = 6, 0.04  # rows of a set that have answers; how much each later set is worse


def write(
    folder: Path,
    *,
    name: str = "tiny-star",
    seed: int = 0,
    better: float = 0.0,
    states: dict[str, str] | None = None,
    steps: int = 300,
    rollouts: int = 6,
    texts: Sequence[str] = (),
) -> Path:
    """`better` is added to every mark, `texts` take the place of what the first answers say,
    `states` are those of stages that are not done."""
    rng = np.random.default_rng(seed + 1)
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for i, (stage, loop, preset) in enumerate(STAGES):
        state = (states or {}).get(stage, "done")
        output = f"{i}-{stage}"
        listed.append(
            {
                "name": stage,
                "run": loop,
                "preset": preset,
                "output": output,
                "key": f"{i:08x}",
                "state": state,
                "seconds": None if state == "waiting" else round(12.5 * (i + 1) + seed, 1),
                "command": f"python -m star_jax.train {loop} --output runs/{output} --seed {seed}",
                "settings": {"samples": 8, "temperature": 1.0} if loop == "evaluate" else {},
            }
        )
        if state != "waiting":
            place = folder / output
            place.mkdir(exist_ok=True)
            fill(place, stage, loop, rng, better, steps, rollouts, texts)
    manifest = {
        "name": name,
        "seed": seed,
        "version": "0.1.0",
        "command": f"python -m star_jax.train curriculum --seed {seed}",
        "machine": {
            "cpu": "a CPU",
            "cores": 8,
            "accelerators": ["one", "two"],
            "python": "3.11.9",
            "jax": "0.10.2",
        },
        "stages": listed,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return folder


def fill(
    place: Path,
    stage: str,
    loop: str,
    rng: np.random.Generator,
    better: float,
    steps: int,
    rollouts: int,
    texts: Sequence[str],
) -> None:
    match loop:
        case "teacher":
            counts = {
                "prompts": 2000,
                "samples": 8000,
                "kept": 5521,
                "pairs": 812,
                "prompts_with_none": 211,
                "dropped": {"wrong": 1670, "bad_json": 402, "unknown_tool": 207, "repeated": 200},
                "call_samples": 5840,
                "call_valid": 5303,
                "call_exact": 4010,
                "words_samples": 2160,
                "words_valid": 2150,
                "words_exact": 1511,
            }
            (place / "report.json").write_text(json.dumps(counts))
            (place / "train.jsonl").write_text('{"id": 1}\n' * 5521)
        case "evaluate":
            (place / "marks.json").write_text(json.dumps(marks(stage, rng, better)))
            lines(place / "answers.jsonl", list(answers(stage, texts)))
        case "ckd":
            config(place, "optimizer:\n  learning_rate: 3.0e-06\nseed: 0\n")
            lines(place / "metrics.jsonl", [ckd(step, steps, rng) for step in range(1, steps + 1)])
            lines(place / "pace.jsonl", [pace(step) for step in range(1, steps + 1)])
        case "rl":
            config(place, "rollout:\n  prompts: 4\n  samples: 4\n")
            each = 4
            lines(
                place / "metrics.jsonl",
                [rl(step, each, rollouts, rng, better) for step in range(1, each * rollouts + 1)],
            )
            lines(place / "pace.jsonl", [pace(step) for step in range(1, each * rollouts + 1)])
            for number in range(rollouts):
                rollout(place / "rollouts" / f"{number:06d}.parquet", number, rng, texts)


def config(place: Path, text: str) -> None:
    (place / "config.yaml").write_text(text)
    (place / "model").mkdir(exist_ok=True)


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pace(step: int) -> dict[str, float]:
    return {
        "step": step,
        "time/step_s": 0.21,
        "speed/tokens_per_s": 18_000 + step,
        "memory/peak_bytes": 3 * 2**30,
    }


def ckd(step: int, steps: int, rng: np.random.Generator) -> dict[str, float]:
    noise, part = rng.normal() * 0.06, step / steps
    found = {
        "step": step,
        "loss/total_nats": 0.2 + 1.9 * np.exp(-5 * part) + noise * 0.5,
        "distill/divergence_nats": 0.1 + 1.2 * np.exp(-5 * part) + noise * 0.3,
        "distill/teacher_mass": 0.998,
        "distill/student_mass": 0.95 + 0.04 * part,
        "distill/mistake_mass": 0.03 * np.exp(-4 * part),
        "distill/overlap": 0.55 + 0.2 * part,
        "distill/cross_entropy_nats": 0.4 + 1.5 * np.exp(-5 * part),
        "distill/teacher_nll_nats": 0.31 + noise * 0.1,
        "optim/learning_rate": 3e-6 * (1 - 0.9 * part),
        "optim/gradient_norm": 1.2 + abs(noise) * 6,
    }
    if step % 50 == 0:
        found["eval/loss/total_nats"] = 0.27 + 1.8 * np.exp(-5 * part)
    return {key: float(value) if key != "step" else step for key, value in found.items()}


def rl(
    step: int, each: int, rollouts: int, rng: np.random.Generator, better: float
) -> dict[str, float]:
    part, noise = step / (each * rollouts), rng.normal() * 0.02
    found = {
        "step": step,
        "loss/total_nats": noise,
        "policy/entropy_nats": 0.32 - 0.12 * part + noise,
        "policy/reference_kl_nats": 0.004 * part**2 + abs(noise) * 1e-3,
        "policy/old_kl_nats": abs(noise) * 2e-4,
        "policy/clip_ratio": 0.004 + abs(noise) * 0.1,
        "optim/gradient_norm": 0.7 + abs(noise) * 4,
    }
    if step % each == 1:
        found |= {
            "rollout/call_reward": -0.12 + 0.5 * part + better + noise,
            "rollout/words_reward": 0.41 + 0.1 * part + noise,
            "rollout/call_answer": 0.35 + 0.3 * part + noise,
            "rollout/words_answer": 0.45 + 0.1 * part + noise,
            "rollout/call_call_share": 0.97 - 0.02 * part,
            "rollout/words_call_share": 0.33 - 0.22 * part,
            "rollout/call_valid_share": 0.62 + 0.3 * part,
            "rollout/words_valid_share": 0.88 + 0.1 * part,
            "rollout/tokens": 41.5 - 4 * part + 10 * noise,
            "rollout/unfinished_share": 0.03 * (1 - part),
            "rollout/spread_share": 0.66 - 0.2 * part,
            "rollout/sampler_gap_nats": 4e-7 + abs(noise) * 1e-6,
            "rollout/sampler_gap_most_nats": 2e-5 + abs(noise) * 1e-4,
        }
    return {key: float(value) if key != "step" else step for key, value in found.items()}


def interval(value: float, rows: int, least: float = 0.0) -> list[float]:
    half = 1.96 * (max(value * (1 - value), 0.02) / rows) ** 0.5
    return [max(least, value - half), min(1.0, value + half)]


def marks(stage: str, rng: np.random.Generator, better: float) -> dict[str, Any]:
    exact = EXACT[stage] + better
    sets = {}
    for i, (name, rows) in enumerate(SETS.items()):
        call_rows = rows * 7 // 10
        call = exact - LATE * i + rng.normal() * 0.01
        # Words get worse, as they may.
        words = 0.47 - 0.4 * (EXACT[stage] - EXACT["before"]) - LATE * i
        values = {
            "call_exact": call,
            "call_reward": 1.6 * call - 0.45,
            "call_valid_share": min(0.99, 0.5 + 0.9 * call),
            "call_call_share": 0.97 - 0.05 * call,
            "words_exact": words,
            "words_reward": words - 0.1,
            "words_valid_share": 0.9,
            "words_call_share": 0.34 - 0.4 * (exact - EXACT["before"]),
        }
        for key in ("exact", "reward", "valid_share", "call_share"):
            values[key] = 0.7 * values[f"call_{key}"] + 0.3 * values[f"words_{key}"]
        of = {"call": call_rows, "words": rows - call_rows}
        ends = {
            key: interval(value, of.get(key.partition("_")[0], rows), -1.0)
            for key, value in values.items()
        }
        wider = 0.35 - 0.5 * (exact - EXACT["before"])  # sampling helps less and less
        passk = {
            kind: {str(k): min(0.99, start + wider * np.log2(k) / 3) for k in (1, 2, 4, 8)}
            for kind, start in (("all", values["exact"]), ("call", call), ("words", words))
        }
        sets[name] = {
            "rows": rows,
            "call_rows": call_rows,
            "words_rows": rows - call_rows,
            "marks": values,
            "intervals": ends,
            "passk": passk,
            "entropy_nats": 0.33 - 0.3 * exact,
            "call_spread_share": 0.7 - 0.5 * exact,
            "samples": 8,
            "temperature": 1.0,
        }
    return {"model": f"runs/{stage}/model", "sets": sets}


def answers(stage: str, texts: Sequence[str]) -> Any:
    said = list(texts)
    for name in SETS:
        for case in ("single", "parallel", "irrelevant"):
            for i in range(CALLS):
                row = world.row("seen", 3, i, case=case)
                prompt, label, wanted = spoken(row)
                is_exact = (i + len(stage)) % 3 == 0
                text = said.pop(0) if said else label if is_exact else "<think>\n\n</think>\n\nNo."
                yield {
                    "set": name,
                    "id": f"{name}-{row['id']}",
                    "case": case,
                    "wanted": wanted,
                    "prompt": prompt,
                    "label": label,
                    "text": text,
                    "exact": is_exact,
                    "reward": 1.0 if is_exact else 0.0,
                    "why": "1: as the label" if is_exact else "0: the label has calls",
                }


def spoken(row: Any) -> tuple[str, str, str]:
    """→ prompt, label, what is due"""
    messages, tools = row["messages"], row["tools"]
    prompt = chat.render(messages[:-1], tools, add_generation_prompt=True)
    label = chat.render(messages, tools)[len(prompt) :]
    return prompt, label, "call" if messages[-1].get("tool_calls") else "words"


def rollout(path: Path, number: int, rng: np.random.Generator, texts: Sequence[str]) -> None:
    """Five groups of four answers, of which one is carried to the next rollout's file."""
    said = list(texts) if number == 0 else []
    rows = []
    places = [*([5 * number - 1] if number else []), *range(5 * number, 5 * number + 5)]
    for place in places:
        prompt, label, wanted = spoken(world.row("train", 0, place))
        for sample in range(4):
            is_bad = rng.random() < 0.5 - 0.06 * number
            kind = KINDS[int(rng.integers(len(KINDS)))] if is_bad else "similarity"
            reward = -1.0 if is_bad else float(rng.choice([0.0, 0.4, 1.0]))
            text = label if reward == 1 else "<think>\nUse it.\n</think>\n\n<tool_call>\n{"
            text = said.pop(0) if said else text
            calls = [[call.name, call.arguments] for call in chat.parse(text).calls]
            is_late = place == 5 * number + 4
            rows.append(
                {
                    "rollout": number,
                    "place": place,
                    "prompt_index": place,
                    "drawn_at": place // 5,
                    "row_id": f"train-0-{place}",
                    "line": place + 1,
                    "sample": sample,
                    "wanted": wanted,
                    "prompt": prompt,
                    "generation": text.encode(errors="backslashreplace").decode(),
                    "calls": json.dumps(calls),
                    "label": label,
                    "reward": reward,
                    "format": -1.0 if is_bad else 1.0,
                    "answer": max(reward, 0.0),
                    "kind": kind,
                    "why": f"{reward:.2f}: {kind}",
                    "advantage": None if is_late else reward,
                    "end": "stop",
                    "use": "later" if is_late else "no" if place % 5 == 3 else "now",
                    "guided": False,
                    "tokens": [1, 2, 3],
                    "logps": [-0.1, -0.2, -0.3],
                    "old_logps": None,
                    "ref_logps": None,
                }
            )
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


def cut(path: Path, count: int) -> None:
    """Off the end, as a process that is killed does."""
    path.write_bytes(path.read_bytes()[:-count])


def change(path: Path, entries: dict[str, Any]) -> None:
    """Entries of a file of JSON, anew."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


class Page(HTMLParser):
    """What a page is made of; an element that is not closed where it was opened fails."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.section, self.texts = "", {"": ""}
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.rows: dict[str, list[list[str]]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, given))
        if tag == "section":
            self.section = str(given["id"])
            self.texts[self.section] = ""
        if tag in self.inside:
            self.inside[tag].append("")
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
        if tag not in markup.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data: str) -> None:
        last = self.open[-1] if self.open else ""
        if last in self.inside:
            self.inside[last][-1] += data
        elif data.strip():
            self.texts[self.section] += f" {data}"
        if {"td", "th"} & set(self.open):
            self.rows[self.section][-1][-1] += f"{data} "

    @property
    def data(self) -> Any:
        return json.loads(self.inside["script"][0])

    def table(self, section: str, first: str) -> list[str]:
        """The cells of the row that begins so."""
        rows = [[clean(cell) for cell in row] for row in self.rows[section]]
        return next(row for row in rows if row and row[0] == first)


def made(folder: Path, *runs: Path) -> tuple[str, Page]:
    out = report.write(runs, folder / "report.html")
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def clean(text: str) -> str:
    return " ".join(text.split())

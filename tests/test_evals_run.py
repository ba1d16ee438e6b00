"""Benchmarks run over their miniatures: every category, in order, whatever stops them."""

from __future__ import annotations

import html.parser
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from star_jax import chat
from star_jax.data.encode import Tokenizer
from star_jax.evals import bfcl as checkers
from star_jax.evals import stats
from star_jax.evals.bfcl import prompt
from star_jax.evals.bfcl.categories import SIZES, groups
from star_jax.evals.bfcl.shares import shares
from star_jax.evals.running import acebench, benchmark, bfcl, scoring, work
from star_jax.evals.running.asking import Answer, Local, Question, lost, name_of
from star_jax.evals.running.prompting import Prompting
from star_jax.sampler.request import Settings
from tests import speaking
from tests.asked import Scripted, call, script

ACE_CALL = "[move_robot(speed=2)]"


def exam(categories: str = "all", limit: int | None = None) -> bfcl.Exam:
    return bfcl.open(None, None, categories, limit)


def run(made: Any, asker: Any, output: Path, **options: Any) -> dict[str, Any] | None:
    prompting = options.pop("prompting", Prompting("official"))
    try:
        return benchmark.run(made, asker, prompting, output, name="m", **options)
    finally:
        if isinstance(made, bfcl.Exam):
            made.close()


def done(made: Any, asker: Any, output: Path, **options: Any) -> dict[str, Any]:
    found = run(made, asker, output, **options)
    assert found is not None
    return found


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_every_category_runs_and_the_files_are_there(tmp_path: Path) -> None:
    scores = done(exam(), Scripted(lambda question: "No."), tmp_path)
    assert list(scores["categories"]) == list(SIZES["v3"])
    assert scores == json.loads((tmp_path / "scores.json").read_text())
    lines = scoring.read_lines(tmp_path / "answers.jsonl")
    assert [line["id"] for line in lines] == [item.id for item in exam().items]
    for name, marks in scores["categories"].items():
        assert marks["value"] == float("irrelevance" in name), name
        stem = f"m/BFCL_v3_{name}"
        first, *wrong = scoring.read_lines(tmp_path / "score" / f"{stem}_score.json")
        assert first["correct_count"] + len(wrong) == first["total_count"] == marks["count"]
        results = scoring.read_lines(tmp_path / "result" / f"{stem}_result.json")
        assert [row["id"] for row in results] == [x["id"] for x in lines if x["category"] == name]
        for row in results:
            turns = len(row["result"]) if name.startswith("multi_turn") else 0
            assert row["result"] == ([["No."]] * turns or "No.")
    assert scores["over_call_rate"]["value"] == scores["call_rate"]["value"] == 0


def test_right_answers_are_all_right(tmp_path: Path) -> None:
    made = exam()
    said = {name: text.partition("</think>")[2] or text for name, text in knowing(made).items()}
    scores = done(made, Scripted(lambda question: said[question.name]), tmp_path)
    for name, marks in scores["categories"].items():
        if name not in ("java", "javascript"):  # which ask for values as source
            assert (marks["value"], marks["error_types"]) == (1, {}), name
    for name in ("live", "multi_turn", "irrelevance"):
        assert scores["averages"][name]["value"] == pytest.approx(1, abs=1e-12)
    assert scores["call_rate"]["value"] == 1
    assert scores["over_call_rate"]["value"] == 0


@pytest.mark.parametrize("mode", ["template", "star"])
def test_every_way_of_asking_can_be_won(tmp_path: Path, mode: Any) -> None:
    """Dialogues too: calls and results are written into later prompts."""
    made = exam("simple,parallel,multi_turn")
    said = knowing(made)
    if mode == "star":  # whose answers begin inside <think>
        tight = {name: text.replace("<tool_call>\n", "<tool_call>") for name, text in said.items()}
        said = {
            name: f"Hm.</think>{text.rpartition('</think>')[2]}" for name, text in tight.items()
        }
    asker = Scripted(lambda question: said[question.name])
    prompting = Prompting(mode, system="Think.", render=chat.render)
    scores = done(made, asker, tmp_path, prompting=prompting)
    assert {marks["value"] for marks in scores["categories"].values()} == {1}
    assert scores["lost"] == 0
    texts = [question.text or "" for question in asker.questions]
    assert all(text.startswith("<|im_start|>system\nThink.\n\n# Tools") for text in texts)
    assert any("<tool_response>" in text and "<tool_call>" in text for text in texts)


def knowing(made: bfcl.Exam) -> dict[bytes, str]:
    """The right answer to every question of the miniature."""

    class Sure(random.Random):
        def random(self) -> float:
            return 0.5

    found = script(made, Sure())
    for item in made.items:
        if item.category == "live_relevance":
            found[name_of("bfcl", item.id, 0)] = call("x", {})
    return found


def local(tmp_path: Path, seed: int = 4, context: int = 100_000, **options: Any) -> Local:
    loaded = speaking.loaded(tmp_path / "model", **options)
    speaker: Any = loaded.scheduler
    speaker.max_prompt = context
    return Local(loaded, Settings(max_new_tokens=20, temperature=1.0, seed=seed), context)


SOME = "simple,irrelevance,live_multiple,multi_turn_base"


def test_stopped_and_gone_on_with_gives_the_same_files(tmp_path: Path) -> None:
    done(exam(SOME), local(tmp_path), tmp_path / "whole")
    whole = files(tmp_path / "whole")
    stopped = 0
    for steps in (9, 12, 30, 10**6):
        count = iter(range(steps))
        made = local(tmp_path, slots=3, tokens=2)
        ended = run(
            exam(SOME),
            made,
            tmp_path / "part",
            should_stop=lambda count=count: next(count, None) is None,
        )
        stopped += ended is None
        made.close()
        assert whole["answers.jsonl"].startswith(files(tmp_path / "part")["answers.jsonl"])
    assert stopped > 1
    assert files(tmp_path / "part") == whole


def test_the_seed_and_nothing_else_draws_answers(tmp_path: Path) -> None:
    found = []
    for number, (seed, slots) in enumerate([(4, 8), (4, 2), (5, 8)]):
        done(exam("simple"), local(tmp_path, seed, slots=slots), tmp_path / str(number))
        found.append((tmp_path / str(number) / "answers.jsonl").read_bytes())
    assert found[0] == found[1] != found[2]


def test_another_seed_does_not_go_on_with_the_answers_of_this_one(tmp_path: Path) -> None:
    done(exam("simple"), local(tmp_path), tmp_path / "out")
    with pytest.raises(ValueError, match=r"was begun with another seed \(4, now 5\)"):
        run(exam("simple"), local(tmp_path, 5), tmp_path / "out")
    with pytest.raises(ValueError, match="was begun with another entries"):
        run(exam("java"), local(tmp_path), tmp_path / "out")


def test_what_does_not_fit_is_lost_as_officially(tmp_path: Path) -> None:
    """A question that is never asked has no call: right where none was due."""
    made = local(tmp_path, context=50)
    scores = done(exam("simple,irrelevance,multi_turn_base"), made, tmp_path / "out")
    assert scores["lost"] == 12
    marks = {name: one["value"] for name, one in scores["categories"].items()}
    assert marks == {"simple": 0, "irrelevance": 1, "multi_turn_base": 0}
    assert scores["error_types"]["multi_turn:inference_error"] == 2
    row = scoring.read_lines(tmp_path / "out/result/m/BFCL_v3_multi_turn_base_result.json")[0]
    assert row["result"].startswith("Error during inference: the prompt has ")
    assert "the context 50" in row["result"]


def test_a_dialogue_that_outgrows_the_context_keeps_its_first_turns(tmp_path: Path) -> None:
    said = {0: "Hm.", 1: lost("full")}

    def says(question: Question) -> str | Answer:
        item = made.items[0]
        return said[[name_of("bfcl", item.id, step) for step in (0, 1)].index(question.name)]

    made = exam("multi_turn_base", 1)
    scores = done(made, Scripted(says), tmp_path)
    (line,) = scoring.read_lines(tmp_path / "answers.jsonl")
    assert (line["turns"], line["lost"], line["valid"]) == ([["Hm."], []], "full", False)
    assert scores["lost"] == 1


def test_new_tokens_never_leave_the_context(tmp_path: Path) -> None:
    made = speaking.loaded(tmp_path / "model")
    asker = Local(made, Settings(max_new_tokens=100), 60)
    for length in (10, 57, 58):
        asker.ask(Question(b"x", "a" * length))
    speaker: Any = made.scheduler
    most = [request.settings.max_new_tokens for request in speaker.requests]
    assert most == [48, 1], "two positions are left free"
    assert [answer.lost for _, answer in asker.step() if answer.lost] == [
        "the prompt has 58 tokens, the context 60"
    ]


def test_shares_are_the_published_averages() -> None:
    rng = random.Random(1)
    for version in ("v3", "v4"):
        names = groups(version)["all"]
        for _ in range(50):
            some = [name for name in names if rng.random() < 0.8] or [names[0]]
            sizes = {name: rng.randint(1, 300) for name in some}
            counts = {name: (rng.randint(0, size), size) for name, size in sizes.items()}
            official = checkers.aggregate(counts, version)
            for name, share in shares(sizes, version).items():
                ours = sum(w * counts[c][0] / counts[c][1] for c, w in share.items() if c in counts)
                if (theirs := getattr(official, name, None)) is not None:
                    assert ours == pytest.approx(theirs, abs=1e-12), name
                assert sum(share.values()) == pytest.approx(1)


def test_averages_have_an_interval_whatever_came_out() -> None:
    rng = random.Random(2)
    share = {"all": {"a": 0.75, "b": 0.25}}
    mixed = {"a": [rng.random() < 0.6 for _ in range(80)], "b": [rng.random() < 0.2] * 40}
    values = {name: [float(one) for one in found] for name, found in mixed.items()}
    usual = scoring.averages(values, share)["all"]
    assert usual["value"] == pytest.approx(0.75 * np.mean(values["a"]) + 0.25 * values["b"][0])
    close = scoring.mover(list(values.values()), [0.75, 0.25])
    assert (close.low, close.high) == pytest.approx((usual["low"], usual["high"]), abs=0.02)
    for alike in ({"a": [0.0] * 9, "b": [1.0] * 9}, {"a": [0.0], "b": [0.0]}, {"a": [1.0] * 5}):
        found = scoring.averages(alike, share)["all"]
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
        assert found["high"] - found["low"] > 0.1
    one = scoring.averages({"a": [0.0] * 9}, {"all": {"a": 1.0}})["all"]
    assert one["high"] == pytest.approx(stats.wilson(0, 9).high)
    assert scoring.averages({"a": [1.0] * 5}, share)["all"]["missing"] == ["b"]


@pytest.mark.parametrize(
    ("words", "names"),
    [("atom_bool,normal_atom_enum", 2), ("atom", 6), ("multi_turn, single_turn", 4), ("all", 12)],
)
def test_acebench_runs(tmp_path: Path, words: str, names: int) -> None:
    made = acebench.open(None, "en", words, None)
    asker = Scripted(lambda question: f"<think>Hm.</think>\n\n{ACE_CALL}")
    template = Prompting("template", render=lambda messages, *rest, **about: repr(messages))
    scores = done(made, asker, tmp_path, prompting=template)
    assert len(scores["categories"]) == names
    assert scores["call_rate"]["value"] == 1, "the thoughts are cut off"
    for marks in scores["averages"].values():
        assert marks["published"] == pytest.approx(marks["value"], abs=1e-3)
    kept = tmp_path / "kept"
    scores = done(made, asker, kept, prompting=template, keep_thoughts=True)
    assert set(scores["error_types"]) == {"wrong_output_format"}
    assert scores["call_rate"]["value"] == 0


def test_acebench_limits_dialogues_and_counts_them() -> None:
    made = acebench.open(None, "en", "multi_turn", 1)
    names = {entry.id.rpartition("_")[0] for entry in made.entries}
    assert len(names) == 2
    assert len(made.entries) > 2, "dialogues are whole"
    lines = [
        {"id": entry.id, "category": entry.category, "valid": index > 0}
        for index, entry in enumerate(made.entries)
    ]
    assert sorted(map(tuple, acebench.units(lines).values())) == [(0.0,), (1.0,)]


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "f", "arguments": {"x": 1}}],
        "reasoning_content": "Hm.",
    },
    {"role": "tool", "name": "f(x=1)", "content": "2"},
]
TOOLS = [
    {
        "name": "f",
        "description": "d",
        "parameters": {
            "type": "dict",
            "properties": {"type": {"type": "float", "enum": ["dict"]}},
            "required": [],
        },
    }
]


def test_prompts() -> None:
    official = prompt.render(MESSAGES, TOOLS)
    assert Prompting("official").text(MESSAGES, TOOLS) == official
    assert Prompting("official", think=False).text(MESSAGES, TOOLS) == (
        official + "<think>\n\n</think>\n\n"
    )
    told = Prompting("official", system="Think hard.").text(MESSAGES, TOOLS)
    assert told == official.replace("Be brief.", "Think hard.\n\nBe brief.")
    star = Prompting("star", system="Think hard.").text(MESSAGES[1:], TOOLS)
    assert star is not None
    assert star.startswith("<|im_start|>system\nThink hard.\n\n# Tools\n\n")
    assert f"<tools>\n{json.dumps(TOOLS[0])}\n\n</tools>" in star
    assert star.endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n<think>")
    assert "Hm." not in star
    assert '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>' in star


def test_templates_get_json_schema() -> None:
    given: list[Any] = []

    def render(messages: Any, tools: Any = None, **about: Any) -> str:
        given.append((messages, tools, about))
        return "prompt"

    assert Prompting("template", True, render=render).text(MESSAGES, TOOLS) == "prompt"
    ((messages, tools, about),) = given
    assert tools[0]["parameters"]["type"] == "object"
    assert tools[0]["parameters"]["properties"] == {"type": {"type": "number", "enum": ["dict"]}}
    assert messages[2]["tool_calls"] == [{"name": "f", "arguments": {"x": 1}}]
    assert about == {"add_generation_prompt": True, "enable_thinking": True}
    assert Prompting("template").text(MESSAGES, TOOLS) is None, "a server has its own"
    sent, wrapped = Prompting("template").sent(MESSAGES, TOOLS)
    assert sent[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}
    assert sent[2]["tool_calls"][0]["id"] == sent[3]["tool_call_id"]
    assert wrapped[0]["type"] == "function"


@pytest.mark.parametrize(
    ("said", "calls"),
    [
        ('Hm.</think><tool_call>{"name": "f", "arguments": {}}</tool_call>', 1),
        ('Hm.</think>\n<tool_call> \n{"name": "f", "arguments": {}}\n\n</tool_call>', 1),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call></think>No.', 0),
        ("</think>" + '<tool_call>{"name": "f", "arguments": {}}</tool_call>' * 2, 2),
    ],
)
def test_star_reads_calls_without_line_ends(said: str, calls: int) -> None:
    text = Prompting("star").read(said)
    assert text.startswith("<think>")
    found = checkers.decode(text)
    assert isinstance(found, list)
    assert len(found) == calls
    assert Prompting("official").read(said) == said


class Stuck(bfcl.Several):
    def ask(self) -> Question:
        if self.answers:
            raise work.Unaskable("no prompt")
        return super().ask()


def test_what_cannot_be_asked_again_is_lost(tmp_path: Path) -> None:
    made = exam("multi_turn_base", 1)
    task = bfcl.make(made, Prompting("official"))(0)
    assert isinstance(task, bfcl.Several)
    stuck = Stuck(task.item, task.dialogue, task.prompting)
    (ended,) = work.answers(iter([stuck]), Scripted(lambda question: "Hm."))
    line: Any = ended.line()
    made.close()
    assert (line["lost"], line["error_type"]) == ("no prompt", "multi_turn:inference_error")


class Reader(html.parser.HTMLParser):
    """Every tag that is opened is closed, and nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        assert tag != "script"
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_escapes_what_a_model_says(tmp_path: Path) -> None:
    evil = '</pre><script>alert("x")</script><img src=x onerror=y> \ud800'
    done(exam("simple,live_relevance"), Scripted(lambda question: evil), tmp_path)
    text = (tmp_path / "scores.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert any("<script>alert" in words for words in reader.words), "it is shown"
    assert "http" not in text
    assert "prefers-color-scheme" in text or "light dark" in text
    for name in ("simple_0", "simple_function_checker:wrong_count", "Right"):
        assert name in " ".join(reader.words)


def test_nothing_speaks_without_the_end_token(tmp_path: Path) -> None:
    made = speaking.loaded(tmp_path / "model", speaking.noise)
    tokenizer: Tokenizer = made.tokenizer
    speaker: Any = made.scheduler
    speaker.script = speaking.says(tokenizer, "Well.")
    asker = Local(made, Settings(max_new_tokens=20), 500)
    asker.ask(Question(b"x", "Hi"))
    answers = [one for _ in range(9) for one in asker.step()]
    assert [answer.text for _, answer in answers] == ["Well."]
    assert answers[0][1].end == "stop"

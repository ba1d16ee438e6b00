"""`generate`: every row once, in order, whatever kills it, and nothing else is touched."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from star_jax import chat
from star_jax.chat import completion
from star_jax.sampler import __main__ as command
from star_jax.sampler import generate, loading
from star_jax.sampler.loading import Loaded
from star_jax.sampler.output import Output, meta_path
from star_jax.sampler.request import Settings
from tests import speaking

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
LABEL = {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {}}]}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def rows(count: int) -> list[dict[str, Any]]:
    """Conversations, prompts, and every third one the same."""
    made: list[dict[str, Any]] = []
    for number in range(count):
        if number % 2:
            made.append({"id": number, "prompt": f"Count to {number}: "})
        else:
            text = "again" if number % 3 == 0 else f"{number}?"
            made.append({"id": f"row-{number}", "messages": [user(text)], "tools": [TOOL]})
    return made


def write(path: Path, made: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", rows(40))


@pytest.fixture
def plan(source: Path) -> generate.Plan:
    settings = Settings(max_new_tokens=30, seed=5)
    return generate.Plan(source=source, output=source.parent / "out.jsonl", settings=settings, n=3)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return speaking.loaded(tmp_path / "model")


def change(plan: generate.Plan, **changes: Any) -> generate.Plan:
    return generate.Plan(**{**vars(plan), **changes})


def speaker(loaded: Loaded) -> speaking.Speaker:
    assert isinstance(loaded.scheduler, speaking.Speaker)
    return loaded.scheduler


def test_a_line_for_every_row(plan: generate.Plan, loaded: Loaded) -> None:
    assert generate.run(plan, loaded) == generate.Outcome(40, 40, 0)
    made = read(plan.output)
    assert [row["id"] for row in made] == [row["id"] for row in rows(40)]
    assert len({row["settings"] for row in made}) == 1
    for row in made:
        assert len({sample["text"] for sample in row["samples"]}) == 3
        for sample in row["samples"]:
            assert sample["stopped"] == (sample["end"] == "stop")
            assert sample["stopped"] or sample["tokens"] == 30
    again = [row["samples"] for row in made if row["id"] in ("row-0", "row-6", "row-12")]
    assert again[0] != again[1] != again[2] != again[0], "equal prompts are sampled apart"
    assert speaker(loaded).held == 0
    first = speaker(loaded).requests[0]
    expected = chat.render([user("again")], [TOOL], add_generation_prompt=True)
    assert loaded.tokenizer.decode(first.prompt) == expected
    assert first.settings.stop_ids == (loaded.tokenizer.end_of_turn,)


def test_what_a_sample_says(plan: generate.Plan, tmp_path: Path) -> None:
    source = write(
        tmp_path / "one.jsonl",
        [
            {"id": "a", "messages": [user("Hi"), LABEL], "tools": [TOOL]},
            {"id": "b", "prompt": "Hi ", "completion": "there"},
            {"id": "c", "prompt": [user("Hi")]},
            {"id": "d", "inputs": "Hi ", "targets": "you"},
        ],
    )
    made = speaking.loaded(tmp_path / "model")
    text = f"<think>\nHm.\n</think>\n\n{CALL}"
    odd = '<think></think><tool_call>{"name": "\\ud800", "arguments": {"x": 1e999}}</tool_call>'
    speaker(made).script = speaking.says(made.tokenizer, text, "x" * 99, odd)
    settings = Settings(max_new_tokens=90)
    generate.run(change(plan, source=source, settings=settings), made)
    found = read(plan.output)
    assert [row.get("label") for row in found] == [LABEL, "there", None, "you"]
    good, long, strange = found[0]["samples"]
    logprobs = [-(token + 1) / 64 for token in made.tokenizer.encode([f"{text}<|im_end|>"])[0]]
    assert good == {
        "text": f"{text}<|im_end|>",
        "tokens": len(logprobs),
        "stopped": True,
        "end": "stop",
        "logprob_sum": round(sum(logprobs), 3),
        "think": "Hm.",
        "calls": [{"name": "weather", "arguments": {"city": "Bern"}}],
        "reply": "",
        "error": None,
    }
    assert (long["end"], long["stopped"], long["tokens"]) == ("length", False, 90)
    assert long["error"]["kind"] == "no_think"
    assert strange["calls"] == [{"name": "\ud800", "arguments": {"x": "Infinity"}}]


def test_without_thinking_the_closed_block_counts(plan: generate.Plan, loaded: Loaded) -> None:
    speaker(loaded).script = speaking.says(loaded.tokenizer, "Yes.")
    generate.run(change(plan, thinking=False), loaded)
    sample = read(plan.output)[0]["samples"][0]
    assert (sample["error"], sample["reply"], sample["think"]) == (None, "Yes.", "")


@pytest.mark.parametrize("slots", [1, 5, 64])
def test_slots_do_not_matter(plan: generate.Plan, loaded: Loaded, tmp_path: Path, slots: int):
    generate.run(plan, loaded)
    other = speaking.loaded(tmp_path / "model", slots=slots, tokens=7)
    generate.run(change(plan, output=tmp_path / "other.jsonl"), other)
    assert (tmp_path / "other.jsonl").read_bytes() == plan.output.read_bytes()
    assert max_ahead(other) <= max(1, 4 * slots // 3)


def max_ahead(loaded: Loaded) -> int:
    return speaker(loaded).most_open


def test_stopped_and_gone_on_with_it_is_the_same(
    plan: generate.Plan, loaded: Loaded, tmp_path: Path
) -> None:
    generate.run(plan, loaded)
    whole = plan.output.read_bytes()
    mine = change(plan, output=tmp_path / "mine.jsonl")
    done = 0
    for stop_after in (3, 11, 12, 1000):
        made = speaking.loaded(tmp_path / "model")
        steps = iter(range(stop_after))
        outcome = generate.run(
            mine, made, should_stop=lambda steps=steps: next(steps, None) is None
        )
        assert outcome.found == done
        done = outcome.done
        assert speaker(made).held == 0, "what was open is cancelled"
        assert whole.startswith(mine.output.read_bytes())
        with mine.output.open("ab") as file:
            file.write(b'{"id": "row-' if done < 40 else b"")  # torn
    assert mine.output.read_bytes() == whole
    idle = speaking.loaded(tmp_path / "model")
    assert generate.run(mine, idle) == generate.Outcome(40, 40, 40)
    assert speaker(idle).requests == [], "finished rows are not done again"


def test_every_torn_end_is_cut_off(plan: generate.Plan, loaded: Loaded, tmp_path: Path) -> None:
    plan = change(plan, source=write(tmp_path / "few.jsonl", rows(3)))
    generate.run(plan, loaded)
    whole = plan.output.read_bytes()
    for size in range(0, len(whole), 97):
        plan.output.write_bytes(whole[:size])
        generate.run(plan, speaking.loaded(tmp_path / "model"))
        assert plan.output.read_bytes() == whole


@pytest.fixture
def begun(plan: generate.Plan, loaded: Loaded) -> generate.Plan:
    """A run that has come some way."""
    calls = iter(range(14))
    outcome = generate.run(plan, loaded, should_stop=lambda: next(calls, None) is None)
    assert 0 < outcome.done < 40
    return plan


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"settings": Settings(max_new_tokens=30, seed=6)}, "another seed (5, now 6)"),
        ({"settings": Settings(max_new_tokens=30, seed=5, stop=("x",))}, "another stop ([], now"),
        ({"n": 4}, "another n (3, now 4)"),
        ({"thinking": False}, "another thinking (None, now False)"),
    ],
)
def test_other_settings_are_refused(
    begun: generate.Plan, loaded: Loaded, changes: dict[str, Any], word: str
) -> None:
    before = begun.output.read_bytes()
    with pytest.raises(ValueError, match="choose another output") as error:
        generate.run(change(begun, **changes), loaded)
    assert word in str(error.value)
    assert begun.output.read_bytes() == before


def test_another_model_or_input_is_refused(begun: generate.Plan, tmp_path: Path) -> None:
    other = speaking.loaded(tmp_path / "model", about={"hash": "1"})
    with pytest.raises(ValueError, match=r"another weights \('0', now '1'\)"):
        generate.run(begun, other)
    same = speaking.loaded(tmp_path / "model")
    write(begun.source, [*rows(40), {"id": "new", "prompt": "x"}])
    with pytest.raises(ValueError, match=r"another rows \("):
        generate.run(begun, same)
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "again.jsonl", rows(40)).read_bytes()))
    assert generate.run(change(begun, source=packed), same).done == 40, "the same rows elsewhere"


def test_a_file_that_was_changed_is_refused(begun: generate.Plan, loaded: Loaded) -> None:
    lines = begun.output.read_bytes().splitlines(keepends=True)
    for broken in ([b"oops\n", *lines[1:]], [*lines[1:]]):
        begun.output.write_bytes(b"".join(broken))
        with pytest.raises(ValueError, match=r"out\.jsonl:1: .*choose another output"):
            generate.run(begun, loaded)
        assert begun.output.read_bytes() == b"".join(broken)


def test_what_is_there_is_never_written_over(plan: generate.Plan, loaded: Loaded) -> None:
    plan.output.write_text("mine\n")
    with pytest.raises(ValueError, match="exists already"):
        generate.run(plan, loaded)
    assert plan.output.read_text() == "mine\n"
    with pytest.raises(ValueError, match="exists already"):
        generate.run(change(plan, output=plan.source), loaded)


def test_one_process_at_a_time(begun: generate.Plan, loaded: Loaded) -> None:
    with begun.output.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is writing it"):
            generate.run(begun, loaded)
    assert generate.run(begun, loaded).done == 40


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no row"),
        ("\n\n", "holds no row"),
        ("{\n", r"in\.jsonl:1: row: is not JSON"),
        ('{"id": 1, "prompt": ""}\n', r"in\.jsonl:1: prompt: is empty"),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', r":2: id: is 1 again, as on line"),
        ('{"prompt": "a"}\n{"prompt": "a"}\n', ":2: id: is 'row-.*' again, as on line 1"),
        ('{"id": 1, "text": "b"}\n', r":1: row: has only"),
        (json.dumps({"messages": [LABEL]}), ":1: messages: .*answer to nothing"),
        (json.dumps({"prompt": "a" * 3000}), ":1: the prompt has 3000 tokens, there is room for 2"),
    ],
)
def test_rows_that_can_not_be_used(
    plan: generate.Plan, loaded: Loaded, content: str, sentence: str
) -> None:
    plan.source.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        generate.run(plan, loaded)
    assert not plan.output.exists()
    assert not meta_path(plan.output).exists()


def test_bad_rows_are_left_out_where_they_may_be(plan: generate.Plan, loaded: Loaded) -> None:
    plan.source.write_text('{"id": 1, "prompt": "a"}\n{\n{"id": 2, "prompt": "b"}\n')
    assert generate.run(change(plan, skip_bad=1), loaded).done == 2


def test_limits(plan: generate.Plan, loaded: Loaded) -> None:
    with pytest.raises(ValueError, match="--max-new-tokens is 999, there is room for 256"):
        generate.run(change(plan, settings=Settings(max_new_tokens=999)), loaded)
    speaker(loaded).max_prompt = 5
    with pytest.raises(ValueError, match=r"row 'row-0' on line 1: .* too long for the fake"):
        generate.run(plan, loaded)
    with pytest.raises(ValueError, match="--n must be"):
        change(plan, n=0)


def test_output_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name it \.jsonl"):
        Output(tmp_path / "out.json", {}, [])
    with pytest.raises(ValueError, match="there is no such folder"):
        Output(tmp_path / "a" / "out.jsonl", {}, [])


RUN = """
import sys, pathlib, time
from star_jax.sampler import loading
from star_jax.sampler.__main__ import main
from tests import speaking

class Slow(speaking.Speaker):
    def step(self):
        time.sleep(float(sys.argv[1]))
        return super().step()

speaking.Speaker = Slow
loading.load = lambda folder, **options: speaking.loaded(pathlib.Path(folder), slots=2)
sys.exit(main(["generate", *sys.argv[2:], "--max-new-tokens", "30", "--n", "3", "--seed", "5"]))
"""


def start(plan: generate.Plan, delay: float) -> subprocess.Popen[str]:
    folder = plan.source.parent / "model"
    arguments = [str(delay), str(plan.source), str(plan.output), "--model", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(plan: generate.Plan, count: int) -> None:
    for _ in range(3000):
        if plan.output.exists() and plan.output.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError("no lines came")


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(plan: generate.Plan, loaded: Loaded) -> None:
    generate.run(change(plan, output=plan.source.parent / "whole.jsonl"), loaded)
    for count in (1, 5):
        process = start(plan, 0.02)
        wait_for_lines(plan, count)
        process.kill()
        process.communicate()
    os.truncate(plan.output, plan.output.stat().st_size - 10)  # as a machine's failure may
    process = start(plan, 0)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "out.jsonl: 40 rows, " in out
    assert "were there already" in out
    assert "40/40" in err
    assert plan.output.read_bytes() == (plan.source.parent / "whole.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_keeps_what_is_done(
    plan: generate.Plan, loaded: Loaded, number: signal.Signals, status: int
) -> None:
    process = start(plan, 0.02)
    wait_for_lines(plan, 2)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == status, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert 2 <= generate.run(change(plan), loaded).found < 40


def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def load(folder: Path, **options: Any) -> Loaded:
        asked.append({"folder": folder, **options})
        return speaking.loaded(folder)

    monkeypatch.setattr(loading, "load", load)
    source, output = write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out.jsonl"
    given = ["generate", str(source), str(output), "--model", str(tmp_path / "model")]
    assert command.main([*given[:1], "nothing.jsonl", *given[2:]]) == 2
    assert command.main([*given, "--top-p", "0"]) == 2
    assert asked == [], "before a model is loaded for nothing"
    assert command.main([*given, "--slots", "7", "--max-new", "20", "--dtype", "float32"]) == 0
    assert asked == [
        {
            "folder": tmp_path / "model",
            "dtype": "float32",
            "slots": 7,
            "max_prompt": 4096,
            "max_new": 20,
            "tensor": 1,
            "small_cache": False,
            "warm_up": False,
        }
    ]
    assert command.main([*given, "--max-new", "20", "--temperature", "0.5"]) == 2
    captured = capsys.readouterr()
    sentences = [line for line in captured.err.splitlines() if line.startswith("star_jax")]
    assert [sentence.split(": ", 1)[1].split(",")[0] for sentence in sentences] == [
        "nothing.jsonl: there is no such file: check the path",
        "top_p must be above 0",
        f"{output}: was begun with another temperature (1.0",
    ]
    assert captured.out == f"{output}: 3 rows\n"


def test_tags_are_the_parser_s() -> None:
    """What a prompt may end in, which a completion is read behind."""
    assert (completion.THINK, completion.THINK_END) == ("<think>", "</think>")

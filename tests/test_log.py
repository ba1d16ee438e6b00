"""The numbers of a run: the same bytes after a kill, fetched late, each of them in the table."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from star_jax.train import boards, units
from star_jax.train.log import Log, Row, read

ROOT = Path(__file__).parents[1]
LOSS, ACCURACY = "loss/total_nats", "loss/token_accuracy"


def make(folder: Path, *, total_steps: int = 100, **options: Any) -> Log:
    return Log(folder, total_steps=total_steps, **{"tensorboard": False, "bar": False} | options)


def events(folder: Path) -> list[Any]:
    """What is in the event files of a folder, in order; by TensorBoard's framing of records."""
    found = []
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        file = io.BytesIO(path.read_bytes())
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            found.append(event_pb2.Event.FromString(file.read(length)))
            file.read(4)
    return found


def train(log: Log, first: int, last: int) -> None:
    """Steps as a loop takes them: metrics on devices, an evaluation now and then, clocks."""
    for step in range(first, last + 1):
        loss = jnp.float32(1) / jnp.float32(step)
        log.push(step, {LOSS: loss, ACCURACY: loss / 3, "data/tokens": jnp.int32(step * 7)})
        if step % 3 == 0:
            log.push(step, {f"eval/{LOSS}": loss * 2})
        log.pace(step, {"time/step_s": np.random.default_rng().random()})


def test_a_row_comes_back_one_push_later(tmp_path: Path) -> None:
    with make(tmp_path) as log:
        assert log.push(1, {LOSS: jnp.float32(0.1)}) is None
        assert (tmp_path / "metrics.jsonl").read_text() == ""
        assert log.push(2, {LOSS: 2.0}) == Row(1, {LOSS: float(np.float32(0.1))})
        assert log.push(2, {f"eval/{LOSS}": jnp.bfloat16(3)}) is None
        assert log.flush() == Row(2, {LOSS: 2.0, f"eval/{LOSS}": 3.0})
        assert log.flush() is None
    assert [row.step for row in read(tmp_path / "metrics.jsonl")] == [1, 2]


class Watched:
    """A number that knows whether it has been looked at."""

    shape = ()

    def __init__(self) -> None:
        self.fetched = False

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self.fetched = True
        return np.float32(1).reshape(())


def test_the_present_step_is_not_fetched(tmp_path: Path) -> None:
    first, second, third = Watched(), Watched(), Watched()
    with make(tmp_path, every=2) as log:
        log.push(2, {LOSS: first})
        assert not first.fetched
        log.push(3, {LOSS: second})
        assert first.fetched
        assert not second.fetched
        log.push(4, {LOSS: third})
        assert not second.fetched  # not due: never
        assert not third.fetched
        log.flush()
        assert third.fetched


def test_every_thins_out_but_keeps_evaluations_and_the_end(tmp_path: Path) -> None:
    with make(tmp_path, total_steps=7, every=4) as log:
        train(log, 1, 7)
    found = [(row.step, sorted(row.metrics)) for row in read(tmp_path / "metrics.jsonl")]
    own = sorted([LOSS, ACCURACY, "data/tokens"])
    assert found == [(3, [f"eval/{LOSS}"]), (4, own), (6, [f"eval/{LOSS}"]), (7, own)]
    assert len(list(read(tmp_path / "pace.jsonl"))) == 7


VALUES = [0.1, 1 / 3, 1e-45, 3.4e38, -0.0, 1.0, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", VALUES)
def test_floats_read_back_exactly(tmp_path: Path, value: float) -> None:
    single = np.float32(value)
    with make(tmp_path) as log:
        log.push(1, {LOSS: jnp.asarray(single), "data/tokens": jnp.int32(2**31 - 1)})
    text = (tmp_path / "metrics.jsonl").read_text()
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict["data/tokens"] == 2**31 - 1
    if not math.isfinite(value):
        assert strict[LOSS] == str(value)
    (row,) = read(tmp_path / "metrics.jsonl")
    assert np.float32(row.metrics[LOSS]).tobytes() == single.tobytes()


@pytest.mark.parametrize("torn", ["", '{"step": 9, "loss/tot', "{"])
def test_a_killed_and_resumed_run_has_the_same_bytes(tmp_path: Path, torn: str) -> None:
    with make(tmp_path / "whole") as log:
        train(log, 1, 12)
    killed = make(tmp_path / "killed")
    train(killed, 1, 6)
    killed.sync()  # and here a checkpoint is saved
    train(killed, 7, 9)
    for file in killed._files.values():  # nobody flushes for a process that is killed
        file.close()
    for name in ("metrics.jsonl", "pace.jsonl"):
        with (tmp_path / "killed" / name).open("a") as file:
            file.write(torn)
    with make(tmp_path / "killed", start_step=6) as log:
        assert [row.step for row in read(tmp_path / "killed" / "pace.jsonl")] == [*range(1, 7)]
        train(log, 7, 12)
    found, wanted = ((tmp_path / name / "metrics.jsonl") for name in ("killed", "whole"))
    assert found.read_bytes() == wanted.read_bytes()
    assert len(list(read(tmp_path / "killed" / "pace.jsonl"))) == 12
    assert not list((tmp_path / "killed").glob(".*"))


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from star_jax.train.log import Log

log = Log(sys.argv[1], total_steps=10, tensorboard=False, bar=False)
for step in (1, 2, 3):
    log.push(step, {"loss/total_nats": jnp.float32(step)})
    log.pace(step, {"time/step_s": 0.5})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [row.step for row in read(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [row.step for row in read(tmp_path / "pace.jsonl")] == [1, 2, 3]


def test_a_fresh_start_begins_empty_files(tmp_path: Path) -> None:
    with make(tmp_path) as log:
        log.push(0, {f"eval/{LOSS}": 1.0})
        train(log, 1, 3)
    with make(tmp_path) as log:
        assert (tmp_path / "metrics.jsonl").read_text() == ""
        log.push(0, {f"eval/{LOSS}": 2.0})
    assert list(read(tmp_path / "metrics.jsonl")) == [Row(0, {f"eval/{LOSS}": 2.0})]


def test_a_foreign_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for foreign in ('{"step": 1}\nhello\n', '{"step": 1}\n{"loss": 1}\n', '{"step": 1}\n[]\n'):
        path.write_text(foreign)
        with pytest.raises(ValueError, match=r"metrics\.jsonl:2: is no line of a run's numbers"):
            make(tmp_path, start_step=5)
        assert path.read_text() == foreign


def test_what_must_not_be_pushed(tmp_path: Path) -> None:
    with make(tmp_path, start_step=3) as log:
        for metrics, sentence in [
            ({"loss/nonsense": 1.0}, r"'loss/nonsense' is not in star_jax\.train\.units\.METRICS"),
            ({"time/step_s": 1.0}, "'time/step_s' is not in"),  # clocks differ from run to run
            ({"eval/time/step_s": 1.0}, "'eval/time/step_s' is not in"),
            ({LOSS: jnp.zeros(2)}, r"must be one number, its shape is \(2,\)"),
        ]:
            with pytest.raises(ValueError, match=sentence):
                log.push(4, metrics)
        with pytest.raises(ValueError, match=r"'loss/total_nats' is not in .*PACE"):
            log.pace(4, {LOSS: 1.0})
        with pytest.raises(ValueError, match="step 3 is pushed after step 3 was written"):
            log.push(3, {LOSS: 1.0})
        log.push(4, {LOSS: 1.0})
        with pytest.raises(ValueError, match="'loss/total_nats' of step 4 is pushed twice"):
            log.push(4, {LOSS: 1.0})
        log.sync()
        with pytest.raises(ValueError, match="all of a step before flush or sync"):
            log.push(4, {f"eval/{LOSS}": 1.0})
    with pytest.raises(ValueError, match="every must be at least 1"):
        make(tmp_path, every=0)


def test_tensorboard_has_both_kinds_and_forgets_what_was_cut(tmp_path: Path) -> None:
    with make(tmp_path, tensorboard=True) as log:
        train(log, 1, 5)
    with make(tmp_path, tensorboard=True, start_step=3) as log:
        train(log, 4, 4)
    found = events(tmp_path / "tensorboard")
    values = {
        (value.tag, event.step): value.simple_value
        for event in found
        for value in event.summary.value
    }
    assert values[LOSS, 4] == 0.25
    assert values[f"eval/{LOSS}", 3] == np.float32(2) / np.float32(3)
    assert ("time/step_s", 5) in values
    starts = [event.step for event in found if event.session_log.status == 1]
    assert starts == [0, 4]


def test_wandb_is_asked_for_and_absent(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"pip install 'star_jax\[wandb\]'"):
        make(folder, wandb={"project": "p"})
    assert not folder.exists()


def test_wandb_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("end")
    )
    fake = SimpleNamespace(init=lambda **given: calls.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with make(tmp_path, wandb={"project": "p"}) as log:
        log.push(1, {LOSS: jnp.float32(2)})
        log.pace(1, {"time/step_s": 0.5})
    assert calls == [
        {"dir": str(tmp_path), "project": "p"},
        (1, {"time/step_s": 0.5}),
        (1, {LOSS: 2.0}),
        "end",
    ]


PACE = {"speed/tokens_per_s": 12345.6, "speed/mfu": 0.4217, "time/eta_s": 3725.0}


def test_without_a_terminal_a_line_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = [100.0]
    monkeypatch.setattr(boards, "monotonic", lambda: now[0])
    with make(tmp_path, total_steps=6, bar=None) as log:
        for step in range(1, 7):
            log.push(step, {LOSS: step / 3})
            log.pace(step, PACE)
            now[0] += 4
    wanted = [
        "step 1/6, loss 0.3333, 12,346 tokens/s, MFU 42.2%, 1:02:05 left",
        "step 4/6, loss 1.333, 12,346 tokens/s, MFU 42.2%, 1:02:05 left",
        "step 6/6, loss 2, 12,346 tokens/s, MFU 42.2%, 1:02:05 left",
    ]
    assert [record.message for record in caplog.records] == wanted


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with make(tmp_path, total_steps=10, start_step=4, bar=None) as log:
        for step in range(5, 11):
            log.push(step, {LOSS: step / 3})
            log.pace(step, PACE)
    last = re.split(r"[\r\n]+", screen.getvalue().strip())[-1]
    assert "10/10" in last
    assert "loss 3.333, 12,346 tokens/s, MFU 42.2%" in last
    assert "4/10" in screen.getvalue()


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with make(tmp_path / "run", tensorboard=True, bar=True) as log:
        log.push(1, {LOSS: jnp.float32(0.5)})
        log.pace(1, PACE)
        assert log.push(2, {LOSS: jnp.float32(0.25)}) == Row(1, {LOSS: 0.5})
        assert log.sync() == Row(2, {LOSS: 0.25})
    assert not (tmp_path / "run").exists()


def test_sync_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def watched(number: int) -> None:
        fsync(number)
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        synced.append((path.name, path.read_bytes()))

    with make(tmp_path) as log:
        train(log, 1, 2)
    kept = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0]
    monkeypatch.setattr(os, "fsync", watched)
    with make(tmp_path, start_step=1, tensorboard=True) as log:
        assert synced[0] == (".metrics.jsonl.part", kept)
        log.push(2, {LOSS: 1.0})
        assert log.sync() == Row(2, {LOSS: 1.0})
        assert ("metrics.jsonl", kept + f'{{"step": 2, "{LOSS}": 1.0}}\n'.encode()) in synced
        assert "pace.jsonl" in dict(synced)
    # TensorBoard's own thread writes when it likes, and all of it by the end.
    found = events(tmp_path / "tensorboard")
    assert [value.tag for event in found for value in event.summary.value] == [LOSS]


def test_a_line_has_one_spelling(tmp_path: Path) -> None:
    with make(tmp_path) as log:
        log.push(1, {"optim/gradient_norm": jnp.float32(2), "data/tokens": jnp.int32(7)})
        log.push(1, {f"eval/{LOSS}": 1, "data/rows": np.int64(3)})
        log.pace(1, {"time/step_s": 0.5, "speed/mfu": 0.25})
    pace = (tmp_path / "pace.jsonl").read_text()
    assert pace == '{"step": 1, "speed/mfu": 0.25, "time/step_s": 0.5}\n'
    wanted = '{"step": 1, "data/rows": 3, "data/tokens": 7, "eval/loss/total_nats": 1, '
    wanted += '"optim/gradient_norm": 2.0}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == wanted


def test_an_error_in_the_loop_keeps_what_was_pushed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), make(tmp_path) as log:  # noqa: PT012
        log.push(1, {LOSS: 1.0})
        1 / 0  # noqa: B018
    assert len(list(read(tmp_path / "metrics.jsonl"))) == 1


def test_names_say_their_units() -> None:
    assert not units.METRICS.keys() & units.PACE.keys()
    for name, (unit, meaning) in units.UNITS.items():
        assert re.fullmatch(r"[a-z]+/[a-z_0-9]+", name), name
        assert meaning, name
        ending = {"nats": "_nats", "s": "_s", "bytes": "_bytes", "tokens/s": "_per_s"}.get(unit, "")
        assert name.endswith(ending), name
        if name.endswith("_s") and unit != "tokens/s":
            assert unit == "s", name


def test_every_metric_of_the_objectives_is_in_the_table() -> None:
    folder = ROOT / "star_jax" / "train" / "distill"
    sources = [path.read_text() for path in folder.rglob("*.py")]
    found = {name for text in sources for name in re.findall(r'"(distill/\w+)"', text)}
    assert len(found) >= 7
    assert found <= units.METRICS.keys()


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    assert units.markdown() in page, (
        "docs/training.md drifted from star_jax/train/units.py; its tables are what "
        "`python -c 'from star_jax.train import units; print(units.markdown())'` prints"
    )

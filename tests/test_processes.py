"""What only shows from outside a process: peak memory, and several processes on one mesh.

And how processes know of each other: from flags, or from their environment.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from star_jax import models
from star_jax.train import config, flags, folder, processes
from tests import oracle, tiny

PEAK = """
import json, sys
from pathlib import Path
import jax
from star_jax import models
from star_jax.train import devices

folder, dtype, *mesh = sys.argv[1:]
devices.split_cpu(8)
jax.block_until_ready(jax.numpy.zeros(8) + 1)
placed = models.make_mesh(*map(int, mesh)) if mesh else None

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
model = models.load(folder, dtype=dtype, mesh=placed)
size = sum(x.nbytes for x in jax.tree.leaves(model.params))
print(json.dumps({"peak": memory("VmHWM") - before, "size": size}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("mesh", [[], ["1", "8", "1"], ["2", "2", "2"], ["8", "1", "1"]], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_holds_the_model_once(tmp_path: Path, mesh: list[str], dtype: str) -> None:
    """Peak host memory below the model's size plus 15 %, however it is cast and split."""
    folder = tiny.write(
        tmp_path / "m",
        torch_dtype="bfloat16",
        vocab_size=65536,
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=64,
        num_hidden_layers=4,
    )
    command = [sys.executable, "-c", PEAK, str(folder), dtype, *mesh]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["size"] > 200e6
    assert found["peak"] <= 1.15 * found["size"]


TWO = """
import json, sys
import jax
import numpy as np

rank, port, folder, out = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
from star_jax import models

mesh = models.make_mesh(2, 2, 2)
model = models.load(folder, mesh=mesh)
tokens_BT = np.arange(1, 25).reshape(2, 12)
logits_BTV = models.logits(model.params, model.config, tokens_BT, np.array([12, 7]))
whole = jax.jit(lambda x: x, out_shardings=jax.sharding.NamedSharding(mesh, jax.P()))(logits_BTV)
np.save(f"{out}-logits-{rank}.npy", np.asarray(whole.addressable_shards[0].data))
models.save(out, model.config, model.params, like=folder, max_shard_size="100KB")
try:
    models.save(out, model.config, model.params, like=folder)
except FileExistsError:
    print("refused")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_share_a_mesh(tmp_path: Path) -> None:
    """Each reads its own shards; the logits are one device's, the export is the original."""
    folder = tiny.write(tmp_path / "m", tie_word_embeddings=False)
    port = free_port()
    out = tmp_path / "out"
    running = [
        subprocess.Popen(  # both are waited for below, whatever the first one says
            [sys.executable, "-c", TWO, str(rank), str(port), str(folder), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in running]
    for said, complained, status in ended:
        assert status == 0, complained
        assert "refused" in said
    model = models.load(folder)
    tokens_BT = np.arange(1, 25).reshape(2, 12)
    wanted_BTV = models.logits(model.params, model.config, tokens_BT, np.array([12, 7]))
    for rank in range(2):
        ours_BTV = np.load(f"{out}-logits-{rank}.npy")
        np.testing.assert_allclose(ours_BTV[0], wanted_BTV[0], atol=2e-5)
        np.testing.assert_allclose(ours_BTV[1, :7], wanted_BTV[1, :7], atol=2e-5)
    _, ours = oracle.read(out)
    _, theirs = oracle.read(folder)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


OURS = {
    "JAX_COORDINATOR_ADDRESS": "a:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "0",
}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
TPU = {"TPU_ML_PLATFORM": "JAX"}


@pytest.mark.parametrize(
    ("environment", "is_told"),
    [
        ({}, False),
        ({"HOME": "/", "SLURM_JOB_ID": "7"}, False),
        (OURS, True),
        ({"JAX_PROCESS_ID": "1"}, True),
        (SLURM, False),  # the job's script, which is none of the tasks
        (SLURM | {"SLURM_STEP_NODELIST": "n[1-2]"}, True),
        (SLURM | {"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        (TPU, True),  # a TPU VM, whose metadata know the other hosts
        (TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}, False),  # GKE, one host
        (TPU | {"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        (TPU | {"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"}, True),
        (TPU | {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
        (TPU | {"TPU_SKIP_MDS_QUERY": "1"}, False),
        ({"TPU_SKIP_MDS_QUERY": "1"}, False),  # as JAX sets it where there are no chips
    ],
)
def test_the_environment_speaks_of_others(environment: dict[str, str], is_told: bool) -> None:
    assert processes.told(environment) is is_told


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"JAX_PROCESS_ID": None}, "JAX_PROCESS_ID is not set: set JAX_COORDINATOR_ADDRESS, "),
        ({"JAX_COORDINATOR_ADDRESS": None}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID is '2' and JAX_NUM_PROCESSES is '2': number"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID is '-1'"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_PROCESS_ID is '0' and JAX_NUM_PROCESSES is 'two'"),
    ],
)
def test_half_an_environment_is_refused(changes: dict[str, str | None], problem: str) -> None:
    given = {name: value for name, value in {**OURS, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=f"^distributed: {problem}"):
        processes.join(environment=given)


@pytest.mark.parametrize(
    ("flags", "environment", "asked"),
    [
        ((None, None, None), OURS, ("a:1", 2, 0)),
        (("b:2", 4, 3), OURS, ("b:2", 4, 3)),
        (("b:2", 4, 3), {}, ("b:2", 4, 3)),
        ((None, None, None), SLURM | {"SLURM_STEP_NODELIST": "n[1-2]"}, (None, None, None)),
        ((None, None, None), {}, None),
    ],
)
def test_flags_go_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, flags: Any, environment: dict[str, str], asked: Any
) -> None:
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: joined.append(given))
    assert processes.join("auto", *flags, environment) is (asked is not None)
    assert joined == ([] if asked is None else [asked])
    joined.clear()
    assert not processes.join("off", *flags, environment)
    assert joined == []
    assert processes.join("on", *flags, environment)
    assert len(joined) == 1


def test_a_slice_that_did_not_join_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TPU's runtime knows all hosts of its slice; what JAX's service does would be missing."""
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match=r"those of 4 processes, .* --distributed.mode on"):
        processes.join("off")


def test_processes_agree_on_a_step_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX ends them at one more than the most that any has asked: that counts from the start."""
    asked: list[int] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        processes.multihost_utils,
        "reached_preemption_sync_point",
        lambda step: asked.append(step) or step == 2,
    )
    before = signal.getsignal(signal.SIGTERM)
    with processes.Signals() as signals:
        assert signal.getsignal(signal.SIGTERM) is before  # JAX's handler, in a run of several
        assert signals.ending() is None
        assert signals.ending() == signal.SIGTERM
    assert asked == [1, 2]


def test_ctrl_c_reaches_the_others_as_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with processes.Signals():
            signal.raise_signal(signal.SIGINT)
            assert told == [signal.SIGTERM]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_runs_configuration_does_not_say_where_its_processes_met(tmp_path: Path) -> None:
    """Else --config OUTPUT/config.yaml would look for them."""
    needed = ["--model", "m", "--output", "o", "--data.train", "t", "--seed", "7"]
    met = ["--distributed.coordinator", "a:1", "--distributed.processes", "2"]
    given = flags.load(config.Sft, [*needed, *met, "--distributed.process", "0"])
    path = tmp_path / "config.yaml"
    path.write_text(folder.config_text(given, "sft"))
    assert flags.load(config.Sft, ["--config", str(path)]) == flags.load(config.Sft, needed)


def test_a_mistake_of_one_process_is_all_there_is() -> None:
    with pytest.raises(processes.Agreed, match=r"^wrong$") as caught, processes.together():
        raise OSError("wrong")
    assert not caught.value.is_told
    with processes.together():
        processes.agree()


MEETING = """
import json, sys, time
import jax
import numpy as np
from star_jax.train import devices, processes

devices.split_cpu(4)
assert processes.join()
me = jax.process_index()
from star_jax import models
from star_jax.train import place

found = {}
mesh, other = models.make_mesh(2, 4, 1), models.make_mesh(2, 2, 2)
if me == 1:
    time.sleep(float(sys.argv[1]))
processes.agree()  # without it the one that comes first gives up after half a minute

asked = []
def rows(part):
    asked.append([part.start, part.stop])
    return np.arange(16, dtype=np.int32).reshape(1, 16)[:, part]

host = place.on_host(mesh, 16, rows)
found["rows"] = asked
here = place.on_mesh(mesh, 16, host)
moved = jax.device_put(place.on_mesh(other, 16, place.on_host(other, 16, rows)),
                       place.micro_sharding(mesh))
found["held"] = [int(x) for shard in moved.addressable_shards for x in np.asarray(shard.data)[0]]
found["sum"] = int(jax.jit(lambda a, b: (a * b).sum())(here, moved))

for mistakes in ([], [0], [1], [0, 1]):
    try:
        with processes.together():
            if me in mistakes:
                raise ValueError(f"wrong at {me if len(mistakes) == 1 else 'all'}")
    except processes.Agreed as error:
        found[str(mistakes)] = [str(error), error.is_told]
try:
    with processes.together():
        if me == 1:
            raise OSError("before they meet")
        processes.agree()
        raise AssertionError("not reached")
except processes.Agreed as error:
    found["met"] = str(error)
print("found", json.dumps(found))
"""


def meet(wait_s: float) -> list[dict[str, Any]]:
    address = f"127.0.0.1:{free_port()}"
    running = []
    for rank in range(2):
        place = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        environment = os.environ | place | {"JAX_PROCESS_ID": str(rank), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", MEETING, str(wait_s)]
        pipe = subprocess.PIPE
        running.append(
            subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    try:
        ended = [(*process.communicate(timeout=300), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()
    for _, complained, status in ended:
        assert status == 0, complained
    lines = [line for said, _, _ in ended for line in said.splitlines()]
    return [json.loads(line[6:]) for line in lines if line.startswith("found ")]


@pytest.mark.slow
def test_processes_make_their_own_rows_and_fail_together() -> None:
    first, second = meet(0)
    # Each made its own rows alone: twos for eight ways, then fours for four.
    assert first["rows"] == [[0, 2], [2, 4], [4, 6], [6, 8], [0, 4], [4, 8]]
    assert second["rows"] == [[8, 10], [10, 12], [12, 14], [14, 16], [8, 12], [12, 16]]
    # What lay on a teacher's mesh came over to the student's.
    assert (sorted(first["held"]), sorted(second["held"])) == ([*range(8)], [*range(8, 16)])
    assert first["sum"] == second["sum"] == sum(x * x for x in range(16))
    # One sentence each time: by the first process, and by the one that has made the mistake.
    assert "[]" not in first
    assert (first["[0]"], second["[0]"]) == (["wrong at 0", False], ["wrong at 0", True])
    assert (first["[1]"], second["[1]"]) == (
        ["process 1: wrong at 1", False],
        ["wrong at 1", False],
    )
    assert (first["[0, 1]"], second["[0, 1]"]) == (["wrong at all", False], ["wrong at all", True])
    assert (first["met"], second["met"]) == ("process 1: before they meet", "before they meet")


@pytest.mark.slow
def test_a_process_is_waited_for() -> None:
    """Gloo gives up on a process that comes to a first collective half a minute late."""
    assert len(meet(35)) == 2

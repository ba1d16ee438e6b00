"""Checkpoints: bits come back on any mesh, a killed save costs nothing, damage is said in words."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from star_jax import models
from star_jax.train import leaves
from star_jax.train.checkpoint import Checkpoints


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    step: Any
    params: Any
    optimizer: Any
    nothing: Any = None


def mesh_of(*sizes: int) -> jax.sharding.Mesh:
    return models.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])


def make(mesh: jax.sharding.Mesh, seed: int = 0, step: int = 7, size: int = 16) -> State:
    """Mixed dtypes, split over the mesh: what a training state looks like."""
    split = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
    key_w, key_e, key_n = jax.random.split(jax.random.key(seed), 3)
    params = {
        "layers": {"w": jax.random.normal(key_w, (size, 8))},
        "embed": jax.random.normal(key_e, (8, 4), jnp.bfloat16),
        "list": (jax.random.normal(key_n, (4, 2)), [jnp.full((4, 2), jnp.nan)]),
    }
    params = jax.device_put(params, split)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    whole = jax.NamedSharding(mesh, jax.P())
    made = State(jnp.int32(step), params, optimizer.init(params))
    return jax.tree.map(lambda x: x if x.ndim else jax.device_put(x, whole), made)


def like(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def bits(state: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


def assert_same(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert bits(found) == bits(wanted)
    dtypes = [[x.dtype for x in jax.tree.leaves(state)] for state in (found, wanted)]
    assert dtypes[0] == dtypes[1]


@pytest.fixture
def one() -> jax.sharding.Mesh:
    return mesh_of(1, 1, 1)


def test_every_bit_comes_back_on_any_mesh(tmp_path: Path) -> None:
    """8 devices → 2, split otherwise → 1 → 8: structure, bits and the shardings asked for."""
    state = make(mesh_of(2, 2, 2))
    wanted = bits(state)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(7, state, {"epoch": 1, "order": [3, "é"]})
    for number, sizes in enumerate([(1, 1, 2), (1, 1, 1), (1, 4, 2)]):
        target = make(mesh_of(*sizes), seed=1)
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert checkpoints.latest() == 7 + number
            assert checkpoints.meta(7 + number) == {"epoch": 1, "order": [3, "é"]}
            found = checkpoints.restore(7 + number, like(target))
            assert_same(found, state)
            assert bits(found) == wanted
            for ours, theirs in zip(*map(jax.tree.leaves, (found, target)), strict=True):
                assert ours.sharding == theirs.sharding
            checkpoints.save(8 + number, found, {"epoch": 1, "order": [3, "é"]})


@pytest.mark.parametrize("spec", [jax.P(), jax.P("fsdp")], ids=["whole", "split"])
def test_donation_right_after_a_save_is_safe(tmp_path: Path, spec: jax.P) -> None:
    mesh = mesh_of(1, 8, 1)
    sharding = jax.NamedSharding(mesh, spec)
    state = [jax.random.normal(jax.random.key(i), (512, 1024)) for i in range(4)]
    state = jax.device_put(state, sharding)
    wanted = [np.array(x, copy=True) for x in state]
    step = jax.jit(lambda xs: [x * 0 - 1 for x in xs], donate_argnums=0)
    step.lower(state).compile()
    abstract = like(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(10):
            state = step(state)
        jax.block_until_ready(state)
        found = checkpoints.restore(1, abstract)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


KILLED = """
import os, signal, sys
import jax, jax.numpy as jnp
from star_jax.train.checkpoint import Checkpoints

folder, moment = sys.argv[1:]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
small = {"w": jnp.arange(4.0)}
large = {"w": jax.random.normal(jax.random.key(0), (4096, 4096))}
checkpoints = Checkpoints(folder, keep_last=1)
checkpoints.save(1, small, {}, wait=True)
if moment == "rename":
    os.rename = os.replace = die
checkpoints.save(2, large, {})
if moment == "rename":
    checkpoints.wait()
while not os.path.exists(f"{folder}/2.orbax-checkpoint-tmp/state"):
    pass
die()
"""


@pytest.mark.parametrize("moment", ["write", pytest.param("rename", marks=pytest.mark.slow)])
def test_a_killed_save_leaves_the_earlier_one(
    tmp_path: Path, one: jax.sharding.Mesh, moment: str
) -> None:
    """Killed while 64 MB are being written, and just before they would get their name."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), moment]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path for path in tmp_path.iterdir() if path.name != "1"]
    assert [path.name for path in left] == ["2.orbax-checkpoint-tmp"]
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        assert checkpoints.steps() == [1]
        assert left[0].exists()  # whoever only reads deletes nothing
        whole = jax.NamedSharding(one, jax.P())
        found = checkpoints.restore(1, {"w": jax.ShapeDtypeStruct((4,), "float32", sharding=whole)})
        np.testing.assert_array_equal(found["w"], np.arange(4.0))
        checkpoints.save(2, found, {}, wait=True)
        assert checkpoints.steps() == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    nan = float("nan")
    scores = {0: nan, 1: 3.0, 2: 1.0, 3: -float("inf"), 4: None, 5: 1.0, 6: 2.0}
    state = {"w": jnp.zeros(2)}
    with Checkpoints(tmp_path, keep_last=2, keep_best=1) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best(), checkpoints.steps()) == (None, None, [])
        seen = []
        for step, score in scores.items():
            assert checkpoints.save(step, state, {}, score)
            seen.append((checkpoints.steps(), checkpoints.best()))
        assert seen == [
            ([0], None),
            ([0, 1], 1),
            ([1, 2], 2),
            ([2, 3], 2),
            ([2, 3, 4], 2),
            ([2, 4, 5], 2),  # the first of equal ones
            ([2, 5, 6], 2),
        ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5", "6"]
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (6, 2)
        checkpoints.save(9, state, {})
        assert (checkpoints.steps(), checkpoints.best()) == ([9], None)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 100 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_fails_says_so_and_costs_nothing(
    tmp_path: Path, small_files: None, caplog: pytest.LogCaptureFixture
) -> None:
    small = {"w": jnp.zeros(3)}
    large = {"w": jax.random.normal(jax.random.key(0), (1024, 1024))}
    sentence = (
        r"2: the checkpoint could not be written \(.*File too large.*earlier ones are as they"
    )
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(1, small, {}, wait=True)
        checkpoints.save(2, large, {})
        with pytest.raises(OSError, match=sentence) as caught:
            checkpoints.wait()
        assert "\n" not in str(caught.value)
        assert checkpoints.steps() == [1]
        checkpoints.save(3, small, {}, wait=True)
        assert checkpoints.steps() == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    assert "Traceback" not in caplog.text


def test_older_ones_go_when_the_newer_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = {}
    fsync = os.fsync

    def watched(number: int) -> None:
        fsync(number)
        synced[os.readlink(f"/proc/self/fd/{number}")] = (tmp_path / "1").exists()

    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros(2)}, {}, wait=True)
        monkeypatch.setattr(os, "fsync", watched)
        checkpoints.save(2, {"w": jnp.zeros(2)}, {}, wait=True)
    wanted = {path for path in (tmp_path / "2").rglob("*") if path.is_file()}
    assert {*map(str, wanted), str(tmp_path / "2"), str(tmp_path)} <= synced.keys()
    assert all(synced.values())
    assert not (tmp_path / "1").exists()


def test_a_step_of_its_own_is_not_written_twice(tmp_path: Path) -> None:
    state, other = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(3, state, {"n": 1})
        assert not checkpoints.save(3, other, {"n": 2})
        assert checkpoints.meta(3) == {"n": 1}
        np.testing.assert_array_equal(checkpoints.restore(3, like(state))["w"], state["w"])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(3, like(state))
        assert not checkpoints.save(3, state, {"n": 1})


def test_steps_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    state = {"w": jnp.zeros(2)}
    with Checkpoints(tmp_path, keep_last=9) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, state, {})
    with Checkpoints(tmp_path, keep_last=9) as checkpoints:
        for step in (3, 6):
            with pytest.raises(
                ValueError, match=rf"holds step 6, so step {step} of this run.*drop"
            ):
                checkpoints.save(step, state, {})
        checkpoints.drop_after(2)
        assert checkpoints.steps() == [2]
        assert checkpoints.save(3, state, {})
        assert checkpoints.steps() == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def cut(leaf: jax.ShapeDtypeStruct, **changes: Any) -> jax.ShapeDtypeStruct:
    kept = {"shape": leaf.shape, "dtype": leaf.dtype, "sharding": leaf.sharding}
    return jax.ShapeDtypeStruct(**kept | changes)


REFUSED = {
    "shape": (lambda w: {"w": cut(w, shape=(2, 8)), "b": w}, r"w is float32\[4, 8\] there and is "
              r"asked for as float32\[2, 8\]"),
    "dtype": (lambda w: {"w": cut(w, dtype="bfloat16"), "b": w}, r"w is float32\[4, 8\] there and "
              r"is asked for as bfloat16\[4, 8\]"),
    "more": (lambda w: {"w": w, "b": w, "c": {"d": w}}, r"c/d is not there and is asked for as "
             r"float32\[4, 8\]"),
    "less": (lambda w: {"w": w}, r"b is float32\[4, 8\] there and is not asked for"),
    "sharding": (lambda w: {"w": w, "b": cut(w, sharding=None)}, "b is a ShapeDtypeStruct without"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_another_state_is_refused(tmp_path: Path, one: jax.sharding.Mesh, case: str) -> None:
    w = jax.device_put(jnp.ones((4, 8)), jax.NamedSharding(one, jax.P()))
    change, sentence = REFUSED[case]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": w, "b": w}, {}, wait=True)
        with pytest.raises(ValueError, match=sentence) as caught:
            checkpoints.restore(1, change(like(w)))
        assert "\n" not in str(caught.value)
        if case != "sharding":
            assert str(tmp_path / "1") in str(caught.value)
            assert "model, optimizer or dtypes differ" in str(caught.value)


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for state, sentence in [
            ({"w": np.zeros(2)}, "w is a ndarray without a sharding"),
            ({"w": {"n": 3}}, "w/n is a int without"),
            ({"key": jax.random.key(0)}, r"key is of key<fry>: give its jax\.random\.key_data"),
            ({"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)}, "two leaves are called a/b"),
        ]:
            with pytest.raises(ValueError, match=sentence):
                checkpoints.save(1, state, {})
        with pytest.raises(ValueError, match="step must be at least 0, got -1"):
            checkpoints.save(-1, {"w": jnp.zeros(1)}, {})
        with pytest.raises(ValueError, match="JSON"):
            checkpoints.save(1, {"w": jnp.zeros(1)}, {"x": float("nan")})
        assert checkpoints.steps() == []
    for wrong in ({"keep_last": 0}, {"keep_best": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least"):
            Checkpoints(tmp_path, **wrong)


def data_file(folder: Path) -> Path:
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "a flipped bit": (lambda folder: flip(data_file(folder)), r"w is not what was saved"),
    "a short file": (lambda folder: halve(data_file(folder)), "the checkpoint is damaged"),
    "no data file": (lambda folder: data_file(folder).unlink(), "the checkpoint is damaged"),
    "a short table": (lambda folder: halve(folder / "state" / "_METADATA"), "is damaged"),
    "a short record": (lambda folder: halve(folder / "_CHECKPOINT_METADATA"), "or is damaged"),
    "no record": (lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(), "no checkpoint of"),
}


# A failed read leaves coroutines of Orbax behind that nobody awaits.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_sentence(tmp_path: Path, case: str) -> None:
    damage, sentence = DAMAGE[case]
    state = {"w": jax.random.normal(jax.random.key(0), (128, 128))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, wait=True)
        damage(tmp_path / "1")
        with pytest.raises(ValueError, match=sentence) as caught:
            checkpoints.restore(1, like(state))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "1") in str(caught.value)
    assert "restore another step" in str(caught.value)


def test_what_is_no_checkpoint_is_passed_over_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {"w": jnp.zeros(2)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    shutil.copytree(tmp_path / "1", tmp_path / "007")  # nobody's name for step 7
    for name in ("2", "notes", "007"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "mine").write_text("!")
    (tmp_path / "3").write_text("a file")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert f"passed over: {tmp_path / '2'}: is no checkpoint of star_jax" in caplog.text
        with pytest.raises(ValueError, match=r"5: there is no such checkpoint.*steps: 1"):
            checkpoints.restore(5, like(state))
        with pytest.raises(ValueError, match="2: is no checkpoint of star_jax"):
            checkpoints.meta(2)
        checkpoints.save(2, state, {})
        checkpoints.save(3, state, {})
        assert checkpoints.steps() == [2, 3]
    kept = [tmp_path / name / "mine" for name in ("2.damaged-1", "notes", "007")]
    assert all(path.read_text() == "!" for path in kept)
    assert (tmp_path / "3.damaged-1").read_text() == "a file"


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    state = {"w": jnp.zeros(2)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, wait=True)
        path = tmp_path / "1" / "_CHECKPOINT_METADATA"
        raw = json.loads(path.read_text())
        raw["custom_metadata"]["format"] = "other 9"
        path.write_text(json.dumps(raw))
        with pytest.raises(
            ValueError, match="its format is 'other 9', not 'star_jax checkpoint 1'"
        ):
            checkpoints.restore(1, like(state))


def test_orbax_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    state = {"w": jnp.zeros(2)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, wait=True)
        checkpoints.restore(1, like(state))
    assert [record for record in caplog.records if record.name == "absl"] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "uint32"])
def test_a_checksum_sees_any_element_and_no_split(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (8, 6, 4)).astype(dtype)
    array = jnp.asarray(values)
    found = int(leaves.checksum(array))
    mesh = mesh_of(2, 2, 2)
    split = jax.device_put(array, jax.NamedSharding(mesh, jax.P("fsdp", None, "tensor")))
    assert int(leaves.checksum(split)) == found
    others = set()
    for index in np.ndindex(values.shape):
        changed = values.copy()
        changed[index] = 1 - changed[index]
        others.add(int(leaves.checksum(jnp.asarray(changed))))
    assert found not in others
    assert len(others) == values.size  # and so it knows where
    swapped = int(leaves.checksum(jnp.asarray(values[::-1])))
    assert swapped != found


TWO = """
import sys
import jax
rank, port, folder = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
import jax.numpy as jnp
from star_jax import models
from star_jax.train.checkpoint import Checkpoints

split = jax.NamedSharding(models.make_mesh(2, 2, 2), jax.P(("data", "fsdp"), "tensor"))
whole = jax.NamedSharding(split.mesh, jax.P())

@jax.jit
def make(seed):
    w = jax.random.normal(jax.random.key(seed), (16, 8))
    return {"w": jax.lax.with_sharding_constraint(w, split),
            "e": jax.lax.with_sharding_constraint(w.astype(jnp.bfloat16), whole),
            "step": jnp.int32(seed)}

with Checkpoints(folder, keep_last=1, keep_best=1) as checkpoints:
    for step, score in ((1, 0.5), (2, 0.25), (3, 0.75), (4, 1.0)):
        checkpoints.save(step, make(step), {"by": "both"}, score)
    assert checkpoints.steps() == [2, 4], checkpoints.steps()
with Checkpoints(folder) as checkpoints:
    assert (checkpoints.latest(), checkpoints.best()) == (4, 2)
    state = make(9)
    # Concrete arrays have shapes, dtypes and shardings as well.
    found = checkpoints.restore(2, state)
    same = jax.jit(lambda a, b: jax.tree.map(lambda x, y: (x == y).all(), a, b))(found, make(2))
    assert all(bool(x) for x in jax.tree.leaves(same)), same
    checkpoints.drop_after(2)
print("done")
"""


@pytest.mark.slow
def test_two_processes_save_and_one_restores(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(rank), str(port), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in running]
    for said, complained, status in ended:
        assert status == 0, complained
        assert "done" in said
        assert "INFO" not in complained
    split = jax.NamedSharding(mesh_of(1, 2, 1), jax.P("fsdp"))
    w = jax.random.normal(jax.random.key(2), (16, 8))
    wanted = {"w": w, "e": w.astype(jnp.bfloat16), "step": jnp.int32(2)}
    wanted = jax.device_put(wanted, {"w": split, "e": split, "step": jax.devices()[0]})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2]
        assert checkpoints.meta(2) == {"by": "both"}
        assert_same(checkpoints.restore(2, like(wanted)), wanted)

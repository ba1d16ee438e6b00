"""What only shows from outside a process: peak memory, and several processes on one mesh."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from star_jax import models
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


@pytest.mark.slow
def test_two_processes_share_a_mesh(tmp_path: Path) -> None:
    """Each reads its own shards; the logits are one device's, the export is the original."""
    folder = tiny.write(tmp_path / "m", tie_word_embeddings=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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

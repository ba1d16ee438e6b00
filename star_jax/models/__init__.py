"""Qwen3 in Flax, and Hugging Face folders in and out.

model = models.load("Qwen3-0.6B", dtype="bfloat16", mesh=models.make_mesh(fsdp=8, data=1))
logits_BTV = models.logits(model.params, model.config, tokens_BT, lengths_B)
models.save("out", model.config, model.params, like="Qwen3-0.6B")
"""

from star_jax.models.cache import Cache, Generated, decode, greedy, prefill, unstack
from star_jax.models.config import Qwen3Config
from star_jax.models.export import save
from star_jax.models.hf import Model, load
from star_jax.models.qwen3 import hidden, init, logits, project
from star_jax.models.sharding import make_mesh
from star_jax.models.tensorfile import CheckpointError

__all__ = [
    "Cache",
    "CheckpointError",
    "Generated",
    "Model",
    "Qwen3Config",
    "decode",
    "greedy",
    "hidden",
    "init",
    "load",
    "logits",
    "make_mesh",
    "prefill",
    "project",
    "save",
    "unstack",
]

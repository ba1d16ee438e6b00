"""The one table: it covers the module's parameters and the file's tensors, each exactly once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from star_jax import models
from star_jax.models import config as config_module
from star_jax.models import layout, qwen3, sharding
from tests import tiny

RAWS = {
    "tied": tiny.BASE,
    "untied": {**tiny.BASE, "tie_word_embeddings": False, "num_hidden_layers": 5},
}


@pytest.mark.parametrize("raw", RAWS.values(), ids=RAWS.keys())
def test_rows_cover_every_leaf_once(raw: dict[str, Any]) -> None:
    config = config_module.from_hf(raw)
    module = nnx.eval_shape(lambda: qwen3.Qwen3(config, nnx.Rngs(0)))
    leaves = {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(module)))
    }
    paths = [row.path for row in layout.rows(config)]
    assert len(set(paths)) == len(paths)
    assert {row.path: row.shape(config) for row in layout.rows(config)} == leaves


@pytest.mark.parametrize("raw", RAWS.values(), ids=RAWS.keys())
def test_rows_name_every_tensor_once(raw: dict[str, Any]) -> None:
    config = config_module.from_hf(raw)
    names = [name for row in layout.rows(config) for name in row.hf_names(config)]
    assert len(set(names)) == len(names)
    assert layout.hf_shapes(config) == tiny.shapes(raw)
    assert layout.count(config) == sum(np.prod(shape) for shape in tiny.shapes(raw).values())


def test_every_logical_axis_has_a_size_and_the_rules_know_only_axes() -> None:
    config = config_module.from_hf(tiny.BASE)
    sizes = layout.axis_sizes(config)
    used = {axis for row in layout.rows(config) for axis in row.axes}
    assert used <= sizes.keys()
    assert sharding.RULES.keys() <= used
    assert set(sharding.RULES.values()) <= set(sharding.AXES)


def test_tensors_there_and_back() -> None:
    config = config_module.from_hf(RAWS["untied"])
    params = models.init(config, jax.random.key(0))
    tensors = dict(layout.hf_tensors(config, params))
    again = layout.from_hf_tensors(config, tensors, jnp.stack)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_check_names_what_is_wrong() -> None:
    config = config_module.from_hf(tiny.BASE)
    params = models.init(config, jax.random.key(0))
    layout.check(config, params)
    with pytest.raises(ValueError, match=r"params lack norm/scale \(64,\)"):
        layout.check(config, {key: value for key, value in params.items() if key != "norm"})
    with pytest.raises(ValueError, match=r"params hold head \(3,\)"):
        layout.check(config, {**params, "head": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"embed is \(2, 2\), this config asks for \(128, 64\)"):
        layout.check(config, {**params, "embed": jnp.zeros((2, 2))})

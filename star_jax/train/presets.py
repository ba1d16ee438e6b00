"""The rows of the paper's tables, and what stands beside them: a name → a loop and its settings.

    of("rl", "luffy") → {"policy": {"preset": "luffy"}, …}      laid under --config and flags

What a row's source leaves open is our default; docs/methods.md says which that is. Where a row has
two stages ("sft+sim-rl") each is a command, and the second starts from the first one's model.
"""

from __future__ import annotations

import copy
import difflib
from typing import Any

Settings = dict[str, Any]

# Distillation from the teacher's top-k without STAR's penalty.
_TOP_K: Settings = {"preset": "star", "tail": "drop"}

PRESETS: dict[str, dict[str, Settings]] = {
    "sft": {
        "sft": {"data": {"keep_reasoning": False}},  # right answers alone
        "sft-think": {},  # a teacher's answers with their reasoning
    },
    "ckd": {
        "ckd": {"objective": {"preset": "star"}},
        "fkl": {"objective": {**_TOP_K, "kind": "fkl"}},
        "rkl": {"objective": {"preset": "star", "kind": "rkl"}},
        "akl": {"objective": {**_TOP_K, "kind": "akl"}},
        "rskd": {"objective": {**_TOP_K, "kind": "rskd"}},
    },
    "rl": {
        "sim-rl": {},
        "binary-rl": {"reward": {"function": "binary"}},
        "toolrl": {
            "reward": {"function": "toolrl"},
            "policy": {"preset": "grpo", "kl_weight": 1e-3, "kl_estimator": "k3"},
            "optimizer": {"learning_rate": 1e-6},
            "rollout": {"samples": 4},
            "filter": {"rule": "all"},
        },
        "toolrl-reward": {"reward": {"function": "toolrl"}, "filter": {"rule": "spread"}},
        "swirl-reward": {
            "reward": {"function": "swirl", "judge": "star_jax.rewards.judges.by_schema"},
            "filter": {"rule": "spread"},
        },
        "luffy": {
            "policy": {"preset": "luffy"},
            "rollout": {"guide": True},
            "filter": {"rule": "all"},
            "optimizer": {"learning_rate": 1e-6},
        },
        "gkd": {
            "policy": {"weight": 0.0, "kl_weight": 0.0},
            "rollout": {"samples": 1, "own_share": 0.5},
            "filter": {"rule": "all"},
            "objective": {"preset": "gkd"},
        },
    },
    "dpo": {
        "dpo": {},
        "ipo": {"preference": {"kind": "ipo"}},
        "dpo+sft": {"preference": {"sft_weight": 1.0}},
    },
}


def of(loop: str, name: str) -> Settings:
    """ValueError where a loop has no preset of that name."""
    known = PRESETS[loop]
    if name in known:
        return copy.deepcopy(known[name])
    other = next((each for each, rows in PRESETS.items() if name in rows), None)
    if other is not None:
        raise ValueError(f"--preset: {name} is one of {other}: python -m star_jax.train {other}")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(known)}"
    raise ValueError(f"--preset: {name!r} is unknown: {hint}")

"""Policy losses, advantages and KL against recorded values of OpenRLHF, TRL, verl, NeMo, LUFFY."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.train import policy, preference
from star_jax.train.policy import groups, surrogate

CASES = range(10)
ADVANTAGES: list[policy.AdvantageKind] = ["group_norm", "dr_grpo", "rloo"]
ESTIMATORS: list[policy.Estimator] = ["k1", "k2", "k3"]
POLICIES: dict[str, dict[str, Any]] = {
    "ppo_token": {},
    "ppo_seq": {"per": "sequence"},
    "clip_higher": policy.presets.dapo(),
    "dual_clip": {"dual_clip": 3.0},
    "gspo": policy.presets.gspo(),
}

# What is compiled here runs once, on a few numbers.
QUICK: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}

# The numbers behind every value of peer_values.json.
REWARDS = np.array([[1, 0.25, 0, 0.75]])
LOGP = np.array([[-0.5, -1, -2], [-0.2, -0.7, 0]])
OLD = np.array([[-0.6, -0.7, -2.5], [-0.4, -0.5, 0]])
REF = np.array([[-0.9, -0.8, -1.5], [-0.3, -0.9, 0]])
MASK = np.array([[1, 1, 1], [1, 1, 0]])
ADV = np.array([1, -0.5])


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "policy.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def peers(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden" / "peer_values.json").read_text())


def padded(x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """NaN around it, which is to reach nothing; zeros around a mask."""
    room = [(0, whole - part) for whole, part in zip(shape, x.shape, strict=True)]
    return np.pad(x, room, constant_values=np.nan if x.dtype == np.float64 else 0)


def run_case(
    logp: jax.Array, old: jax.Array, ref: jax.Array, mask: jax.Array, adv: jax.Array, r: jax.Array
) -> dict[str, Any]:
    def loss(logp: jax.Array, options: dict[str, Any]) -> Any:
        return policy.loss(logp, old, adv, mask, **options)

    def kl(logp: jax.Array, estimator: policy.Estimator) -> jax.Array:
        return policy.kl(logp, ref, mask, estimator)

    return {
        **{
            name: jax.value_and_grad(lambda x, o=options: loss(x, o), has_aux=True)(logp)
            for name, options in POLICIES.items()
        },
        **{one: jax.value_and_grad(kl)(logp, one) for one in ESTIMATORS},
        **{kind: policy.advantages(r, kind) for kind in ADVANTAGES},
    }


@pytest.fixture(scope="module")
def computed(golden: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every case, padded to one shape: compiling is what takes long."""
    with jax.enable_x64(True):
        run = jax.jit(run_case, compiler_options=QUICK)
        made = []
        for case in CASES:
            names = ("logp", "old_logp", "ref_logp", "mask")
            rows = [padded(golden[f"{case}/{name}"], (15, 9)) for name in names]
            adv = golden[f"{case}/adv/group_norm"].reshape(-1, 1)
            rewards = padded(golden[f"{case}/rewards"], (3, 5))
            made.append(run(*rows, padded(adv, (15, 1))[:, 0], rewards))
    return made


def surrounded(grad: np.ndarray) -> np.ndarray:
    return np.nan_to_num(padded(grad, (15, 9)))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_clip_ratio_are_openrlhfs(
    golden: dict[str, np.ndarray], computed: list[dict[str, Any]], case: int, name: str
) -> None:
    (value, metrics), grad = computed[case][name]
    assert value.dtype == grad.dtype == "float64"
    recorded = {
        part: golden[f"{case}/policy/{name}/{part}"] for part in ("loss", "grad", "clip_ratio")
    }
    np.testing.assert_allclose(value, recorded["loss"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(grad, surrounded(recorded["grad"]), rtol=0, atol=1e-9)
    np.testing.assert_allclose(metrics["policy/clip_ratio"], recorded["clip_ratio"], atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("case", CASES)
def test_kl_and_its_gradient_are_openrlhfs(
    golden: dict[str, np.ndarray],
    computed: list[dict[str, Any]],
    case: int,
    estimator: policy.Estimator,
) -> None:
    value, grad = computed[case][estimator]
    # The reference computes them in float32.
    np.testing.assert_allclose(value, golden[f"{case}/kl/{estimator}/mean"], rtol=0, atol=1e-6)
    recorded = surrounded(golden[f"{case}/kl/{estimator}/grad"])
    np.testing.assert_allclose(grad, recorded, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize("case", CASES)
def test_advantages_are_openrlhfs(
    golden: dict[str, np.ndarray],
    computed: list[dict[str, Any]],
    case: int,
    kind: policy.AdvantageKind,
) -> None:
    recorded = golden[f"{case}/adv/{kind}"]
    on_host = policy.advantages(golden[f"{case}/rewards"], kind)
    assert isinstance(on_host, np.ndarray)
    assert on_host.dtype == np.float64
    np.testing.assert_allclose(on_host, recorded, rtol=0, atol=1e-9)
    # On the device there are also samples without a reward.
    on_device = computed[case][kind]
    assert isinstance(on_device, jax.Array)
    assert on_device.dtype == np.float64
    np.testing.assert_allclose(
        on_device, np.nan_to_num(padded(recorded, (3, 5))), rtol=0, atol=1e-9
    )


def test_most_recorded_groups_differ_in_their_rewards(golden: dict[str, np.ndarray]) -> None:
    """Else zeros were compared with zeros."""
    for case in CASES:
        assert case == 7 or np.abs(golden[f"{case}/adv/group_norm"]).max() > 0.5


# --- Values of other projects' functions.

PEER_ADVANTAGES: dict[str, tuple[policy.AdvantageKind, float | None]] = {
    "openrlhf.adv.group_norm": ("group_norm", None),
    "openrlhf.adv.dr_grpo": ("dr_grpo", None),
    "openrlhf.adv.rloo": ("rloo", None),
    "trl.adv.group": ("group_norm", 1e-4),
    "trl.adv.none": ("dr_grpo", None),
    "verl.adv.grpo": ("group_norm", 1e-6),
    "nemo.adv.loo_normalized": ("leave_one_out", None),
}


@pytest.mark.parametrize("name", PEER_ADVANTAGES)
def test_advantages_are_the_peers(peers: dict[str, Any], name: str) -> None:
    kind, eps = PEER_ADVANTAGES[name]
    got = policy.advantages(REWARDS, kind, eps=eps)
    # NeMo's is recorded from float32.
    np.testing.assert_allclose(got[0], peers[name], rtol=0, atol=1e-6)


def test_what_is_left_out_is_nemos(peers: dict[str, Any]) -> None:
    mean_PG, std_PG = groups._others(np, REWARDS, np.ones(REWARDS.shape, bool))
    np.testing.assert_allclose(mean_PG[0], peers["nemo.loo.baseline"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(std_PG[0], peers["nemo.loo.std"], rtol=0, atol=1e-6)


PEER_KL: dict[str, policy.Estimator] = {
    f"{project}.kl.{one}": one for project in ("openrlhf", "verl") for one in ESTIMATORS
} | {"verl.kl.abs": "abs"}


@pytest.mark.parametrize("name", PEER_KL)
def test_kl_estimators_are_the_peers(peers: dict[str, Any], name: str) -> None:
    with jax.enable_x64(True):
        got = policy.kl_terms(LOGP, REF, MASK, PEER_KL[name])
    np.testing.assert_allclose(got, peers[name], rtol=0, atol=1e-6)


def test_kl_is_clamped_without_a_gradient_or_not_at_all(peers: dict[str, Any]) -> None:
    far, near, mask = jnp.asarray([[8.0]]), jnp.zeros((1, 1)), np.ones((1, 1))
    clamped, slope = jax.value_and_grad(lambda x: policy.kl(x, near, mask, "k2"))(far)
    np.testing.assert_allclose([clamped], peers["openrlhf.kl.k2.clamped_at_10"])
    assert slope == 0
    free, slope = jax.value_and_grad(lambda x: policy.kl(x, near, mask, "k2", clamp=None))(far)
    assert (free, slope) == (32.0, 8.0)


def test_stars_kl_loss(peers: dict[str, Any]) -> None:
    with jax.enable_x64(True):
        np.testing.assert_allclose(policy.kl(LOGP, REF, MASK), peers["openrlhf.k2_loss"], atol=1e-6)


# TRL's clipping of "cispo" is one bound, from above; ours is a distance from 1.
PEER_LOSSES: dict[str, dict[str, Any]] = {
    "trl.loss.grpo(max_completion_length=8,one rank)": {"per": "sequence"},
    "trl.loss.bnpo(max_completion_length=8,one rank)": {"per": "micro"},
    "trl.loss.dr_grpo(max_completion_length=8,one rank)": policy.presets.dr_grpo(length=8),
    "trl.loss.dapo(max_completion_length=8,one rank)": {"per": "token"},
    "trl.loss.cispo.eps_high5": policy.presets.cispo(above=4.0),
    "trl.loss.gspo(loss_type=grpo,is_level=sequence,eps3e-4/4e-4)": policy.presets.gspo(),
    "trl.loss.sapo": {"kind": "sapo", "per": "sequence"},
    "verl.agg.token-mean(ppo)": {"per": "token"},
    "verl.agg.token-sum(ppo)": {"per": "fixed", "length": 1, "sequences": 1},
    "verl.agg.seq-mean-token-sum(ppo)": {"per": "fixed", "length": 1},
    "verl.agg.seq-mean-token-mean(ppo)": {"per": "sequence"},
    "verl.agg.seq-mean-token-sum-norm(ppo)": {"per": "fixed", "length": 3},
    "verl.policy_loss.vanilla(.2/.28)": {"clip": (0.2, 0.28), "dual_clip": 3.0},
    "verl.policy_loss.gspo(.2/.28)": {"kind": "gspo", "clip": (0.2, 0.28)},
    "verl.policy_loss.cispo(.2/.28)": policy.presets.cispo(above=0.28, below=0.2),
    **{
        f"trl.loss.{name}+0.1*k3": {**options, "kl_weight": 0.1, "kl_estimator": "k3"}
        for name, options in {
            "grpo": policy.presets.grpo(),
            "bnpo": {"per": "micro"},
            "dr_grpo": {"per": "fixed", "length": 8},
            "dapo": {"per": "token"},
        }.items()
    },
}


OPENRLHF: dict[str, dict[str, Any]] = {
    "token": {},
    "seq": {"per": "sequence"},
    "gspo": {"kind": "gspo"},
    "clip_high": {"clip": (0.2, 0.28)},
    "dual3": {"dual_clip": 3.0},
}


@pytest.fixture(scope="module")
def losses() -> dict[str, Any]:
    """The loss and metrics of every set of options, from one program."""

    def run(logp: jax.Array) -> dict[str, Any]:
        return {
            name: policy.loss(logp, OLD, ADV, MASK, ref_logp=REF, **options)
            for name, options in (PEER_LOSSES | OPENRLHF).items()
        }

    with jax.enable_x64(True):
        return jax.jit(run, compiler_options=QUICK)(LOGP)


@pytest.mark.parametrize("name", PEER_LOSSES)
def test_losses_are_the_peers(peers: dict[str, Any], losses: dict[str, Any], name: str) -> None:
    assert float(losses[name][0]) == pytest.approx(peers[name], rel=0, abs=1e-6)


@pytest.mark.parametrize("name", OPENRLHF)
def test_losses_clip_ratios_and_divergences_are_openrlhfs(
    peers: dict[str, Any], losses: dict[str, Any], name: str
) -> None:
    value, metrics = losses[name]
    got = [value, metrics["policy/clip_ratio"], metrics["policy/old_kl_nats"]]
    np.testing.assert_allclose(got, peers[f"openrlhf.policy_loss.{name}"], rtol=0, atol=1e-6)


LUFFY: dict[str, dict[str, Any]] = {
    "script(p/(p+.1),no clip,/T)": policy.presets.luffy(length=3) | {"entropy_weight": 0.0},
    "no_reshape,token_mean,clip": {"guide_gamma": None},
}
GUIDED = np.array([[1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize("name", LUFFY)
def test_guided_losses_are_luffys(peers: dict[str, Any], name: str) -> None:
    """The whole, and the token means of the guide's tokens and of the policy's own."""
    options = LUFFY[name]
    with jax.enable_x64(True):
        sequences = {"sequences": 1} if options.get("per") == "fixed" else {}
        whole, _ = policy.loss(LOGP, OLD, ADV, MASK, guided=GUIDED, **sequences, **options)
        loss_BT, _ = policy.terms(
            LOGP, OLD, ADV, MASK, policy.Objective(**options), guided_BT=GUIDED
        )
        parts = [policy.token_mean(loss_BT, MASK * here) for here in (GUIDED, 1 - GUIDED)]
    np.testing.assert_allclose([whole, *parts], peers[f"luffy.loss.{name}"], rtol=0, atol=1e-6)


def test_the_shape_of_guidance_is_luffys(peers: dict[str, Any]) -> None:
    with jax.enable_x64(True):
        p = jnp.asarray([[0.01, 0.1, 0.5, 0.9]])
        shape, grad = jax.vjp(lambda p: surrogate.guided(jnp.log(p), 0.1), p)
        (slope,) = grad(jnp.ones_like(p))
    np.testing.assert_allclose(
        shape[0], peers["luffy.f(p)=p/(p+.1) at p=.01,.1,.5,.9"], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(slope[0], peers["luffy.f'(p)=.1/(p+.1)^2"], rtol=1e-6)


def test_dpo_is_openrlhfs(peers: dict[str, Any]) -> None:
    with jax.enable_x64(True):
        pair = [np.array([x]) for x in (-5.0, -7.0, -6.0, -6.5)]
        value, _ = preference.dpo(*pair, beta=0.1)
    assert float(value) == pytest.approx(peers["openrlhf.dpo.beta0.1"], rel=0, abs=1e-6)


def test_sim_rl_is_the_clipped_loss_and_a_thousandth_of_k2(peers: dict[str, Any]) -> None:
    k2 = np.array(peers["verl.kl.k2"])
    added = {"star": k2.sum() / 5, "star_paper": (k2[0].sum() / 3 + k2[1].sum() / 2) / 2}
    clipped = {"star": "token", "star_paper": "seq"}
    for name, options in {
        "star": policy.presets.star(),
        "star_paper": policy.presets.star_paper(),
    }.items():
        with jax.enable_x64(True):
            value, _ = policy.loss(LOGP, OLD, ADV, MASK, ref_logp=REF, **options)
        expected = peers[f"openrlhf.policy_loss.{clipped[name]}"][0] + 1e-3 * added[name]
        assert float(value) == pytest.approx(expected, rel=0, abs=1e-8)


def test_every_value_of_the_peers_is_tried(peers: dict[str, Any]) -> None:
    families = ("openrlhf.", "trl.adv", "trl.loss", "verl.kl", "verl.agg", "verl.adv")
    families += ("verl.policy", "nemo.adv", "nemo.loo", "luffy.")
    tried = {
        *PEER_ADVANTAGES,
        *PEER_KL,
        *PEER_LOSSES,
        *(f"openrlhf.policy_loss.{name}" for name in OPENRLHF),
        *(f"luffy.loss.{name}" for name in LUFFY),
        "luffy.f(p)=p/(p+.1) at p=.01,.1,.5,.9",
        "luffy.f'(p)=.1/(p+.1)^2",
        "nemo.loo.baseline",
        "nemo.loo.std",
        "openrlhf.dpo.beta0.1",
        "openrlhf.k2_loss",
        "openrlhf.kl.k2.clamped_at_10",
    }
    assert {name for name in peers if name.startswith(families)} == tried

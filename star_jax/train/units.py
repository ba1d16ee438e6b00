"""Every number that a run writes: its name, its unit, its meaning.

A name is area/name, with the unit behind it where there is one. METRICS follow from the data, the
seed and the step, and are the same in a run that was killed and resumed; PACE is what clocks and
machines say. Measured on held-out rows, a metric is called eval/ and its name.
"""

from __future__ import annotations

Table = dict[str, tuple[str, str]]  # name → unit, meaning; "" where a number has no unit

METRICS: Table = {
    "loss/total_nats": (
        "nats",
        "mean over the step's loss tokens: what is differentiated, if batch.mean is tokens",
    ),
    "loss/cross_entropy_nats": ("nats", "-log q of the target, mean over loss tokens"),
    "loss/token_accuracy": ("share", "loss tokens whose target is the likeliest token"),
    "distill/divergence_nats": (
        "nats",
        "divergence of teacher and student, before clamp, penalty and cross-entropy",
    ),
    "distill/teacher_mass": ("share", "the teacher's probability on the support"),
    "distill/student_mass": ("share", "the student's probability on the support"),
    "distill/mistake_mass": (
        "share",
        "the student's probability on those of its best tokens that the teacher's list lacks",
    ),
    "distill/overlap": ("share", "the student's best tokens that are on the teacher's list"),
    "distill/cross_entropy_nats": ("nats", "-log q of the target, at temperature 1"),
    "distill/teacher_nll_nats": ("nats", "-log p of the target, at temperature 1"),
    "policy/clip_ratio": ("share", "tokens whose ratio is held by the clip"),
    "policy/ratio": ("", "the policy's probability over that at the rollout's start"),
    "policy/old_kl_nats": ("nats", "KL from the policy at the rollout's start, k1"),
    "policy/reference_kl_nats": ("nats", "KL from the reference, as the loss has it"),
    "policy/entropy_nats": ("nats", "entropy of the policy at its own tokens"),
    "policy/importance_weight": ("", "weight of a token for having been drawn by the sampler"),
    "policy/sampler_gap_nats": ("nats", "distance of the sampler's log-probs to the trainer's"),
    "rollout/groups": ("groups", "groups that the rollout trains on"),
    "rollout/prompts_asked": ("prompts", "prompts that were asked for it"),
    "rollout/groups_carried": ("groups", "accepted groups that wait for the next rollout"),
    "rollout/sampler_gap_nats": ("nats", "sampler's log-probs to the trainer's, mean distance"),
    "rollout/sampler_gap_most_nats": ("nats", "the same, the largest"),
    "rollout/spread_share": ("share", "asked groups whose samples differ in reward"),
    "rollout/tokens": ("tokens", "mean length of a sample"),
    "rollout/unfinished_share": ("share", "samples that ran into the limit"),
    "rollout/reward": ("", "mean reward"),
    "rollout/answer": ("", "mean of the answer's part of the reward"),
    "rollout/valid_share": ("share", "samples whose format is right"),
    "rollout/call_share": ("share", "samples with a call that can be read"),
    "rollout/call_reward": ("", "where the label is a call: mean reward"),
    "rollout/call_answer": (
        "",
        "where the label is a call: mean of the answer's part of the reward",
    ),
    "rollout/call_valid_share": (
        "share",
        "where the label is a call: samples whose format is right",
    ),
    "rollout/call_call_share": (
        "share",
        "where the label is a call: samples with a call that can be read",
    ),
    "rollout/words_reward": ("", "where the label is words: mean reward"),
    "rollout/words_answer": (
        "",
        "where the label is words: mean of the answer's part of the reward",
    ),
    "rollout/words_valid_share": (
        "share",
        "where the label is words: samples whose format is right",
    ),
    "rollout/words_call_share": (
        "share",
        "where the label is words: samples with a call that can be read",
    ),
    "preference/accuracy": ("share", "pairs whose chosen answer has gained more than the other"),
    "preference/margin": ("", "β times how much more it has gained"),
    "preference/chosen_reward": ("", "β times what chosen answers have gained in log-probability"),
    "preference/rejected_reward": ("", "the same of rejected answers"),
    "preference/chosen_cross_entropy_nats": ("nats", "-log π of a chosen answer's token"),
    "eval/exact": ("share", "greedy answers that are the label's"),
    "eval/reward": ("", "mean reward of greedy answers"),
    "eval/valid_share": ("share", "greedy answers whose format is right"),
    "eval/call_share": ("share", "greedy answers with a call that can be read"),
    "eval/call_exact": ("share", "where the label is a call: answers that are the label's"),
    "eval/call_reward": ("", "where the label is a call: mean reward"),
    "eval/call_valid_share": ("share", "where the label is a call: answers of the right format"),
    "eval/call_call_share": ("share", "where the label is a call: answers with a call"),
    "eval/words_exact": ("share", "where the label is words: answers that are the label's"),
    "eval/words_reward": ("", "where the label is words: mean reward"),
    "eval/words_valid_share": ("share", "where the label is words: answers of the right format"),
    "eval/words_call_share": ("share", "where the label is words: answers with a call"),
    "optim/learning_rate": ("", "learning rate of the step"),
    "optim/gradient_norm": ("", "2-norm of the gradient, before it is clipped"),
    "optim/clipped": ("share", "1 where the gradient was clipped, else 0"),
    "data/examples": ("examples", "examples of the step"),
    "data/tokens": ("tokens", "tokens of the step, without padding"),
    "data/loss_tokens": ("tokens", "tokens of the step that are learnt"),
    "data/rows": ("rows", "rows of the step's batch that hold an example"),
    "data/packing_share": ("share", "places of the batch that hold a token"),
    "data/epoch": ("epochs", "how often the data has been gone through, with its fraction"),
    "data/examples_seen": ("examples", "examples since the run began"),
    "data/loss_tokens_seen": (
        "tokens",
        "target tokens since the run began, whatever part is learnt",
    ),
}

PACE: Table = {
    "time/step_s": ("s", "time from one step's end to the next one's"),
    "time/elapsed_s": ("s", "time since this process began to train"),
    "time/eta_s": ("s", "time that is left, at the present pace"),
    "time/compile_s": ("s", "time spent compiling since the process began"),
    "time/data_wait_s": ("s", "time that the step waited for its batch"),
    "speed/tokens_per_s": ("tokens/s", "tokens a second, without padding, of all devices"),
    "speed/loss_tokens_per_s": ("tokens/s", "target tokens a second, of all devices"),
    "speed/mfu": ("share", "model FLOPs utilisation: speed/flops over what the devices can do"),
    "speed/flops": ("FLOP/s", "floating point operations a second that the model needs"),
    "memory/peak_bytes": ("bytes", "the most memory that was in use on one device"),
    "compile/count": ("", "programs compiled since the process began"),
}

UNITS: Table = METRICS | PACE


def is_metric(name: str) -> bool:
    return name in METRICS or name.removeprefix("eval/") in METRICS


def is_pace(name: str) -> bool:
    return name in PACE


def markdown() -> str:
    """The two tables as docs/training.md has them."""
    return "\n".join(
        line
        for title, table in (("metrics.jsonl", METRICS), ("pace.jsonl", PACE))
        for line in (
            f"| `{title}` | unit | is |",
            "|---|---|---|",
            *(f"| `{name}` | {unit} | {meaning} |" for name, (unit, meaning) in table.items()),
            "",
        )
    ).strip()

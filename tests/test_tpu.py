"""The scripts and configurations of tpu/, as far as they can be tried without a TPU."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from star_jax.train import config, flags

TPU = Path(__file__).parents[1] / "tpu"
SCRIPTS = sorted(TPU.glob("*.sh"))
CONFIGS = sorted(TPU.glob("configs/*.yaml"))
TRAIN = (".venv/bin/python", "-m", "star_jax.train", "sft", "--model", "it's a; model")


def said(script: str, *args: str, status: int = 0, **environment: str) -> str:
    command = [str(TPU / f"{script}.sh"), *args]
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=path | environment
    )
    assert done.returncode == status, done
    return done.stderr if status else done.stdout


def test_there_are_scripts_and_configurations() -> None:
    assert [path.stem for path in SCRIPTS] == ["launch", "local", "setup"]
    assert len(CONFIGS) == 3


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_parses_and_explains_itself(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    for flag in ("-h", "--help"):
        text = said(path.stem, flag)
        assert text.startswith(f"tpu/{path.name} ")
        assert "--help" in text
    # Every option that it knows is in the text.
    options = set(re.findall(r"^    ((?:-+[a-z-]+(?: \| )?)+)\)", path.read_text(), re.MULTILINE))
    named = {option for group in options for option in group.split(" | ")} - {"--", "-"}
    assert named
    assert all(re.search(rf"{option}\b", text) for option in named), named


@pytest.mark.parametrize(
    ("script", "args", "sentence"),
    [
        ("local", ["-n", "0", "sft"], "-n: is '0': give a number of 1 or more"),
        ("local", ["--devices"], "--devices: is '': give a number of 1 or more"),
        ("local", ["--what", "sft"], "--what: is unknown: see -h"),
        ("local", [], "'': is no loop: give sft or ckd"),
        ("local", ["-n", "2", "--", "dpo"], "'dpo': is no loop: give sft or ckd"),
        ("setup", ["--extra", "cpu"], "--extra: is 'cpu': give tpu or gpu"),
        ("setup", ["what"], "what: is unknown: see -h"),
        ("launch", ["--tpu", "t", "--zone", "z"], "there is no command: give it after --"),
        ("launch", ["--tpu", "t", "--", "ls"], "--zone: is missing: give the zone of t"),
        ("launch", ["--", "ls"], "where to? give --tpu NAME --zone ZONE, or --hosts LIST"),
        ("launch", ["--tpu", "--zone", "z", "--", "ls"], "--tpu: has no value: see -h"),
        ("launch", ["--tpu", "t", "ls"], "ls: is unknown: options go before --"),
        ("launch", ["--tpu", "t", "--hosts", "a", "--", "ls"], "--tpu and --hosts: give one"),
        ("launch", ["--hosts", "a", "--worker", "1", "--", "ls"], "--worker: is of --tpu"),
    ],
)
def test_a_mistake_is_one_sentence(script: str, args: list[str], sentence: str) -> None:
    told = said(script, *args, status=2)
    assert told.startswith(f"tpu/{script}.sh: {sentence}")
    assert len(told.splitlines()) == 1


def test_local_names_a_python_that_is_not_there() -> None:
    told = said("local", "sft", status=2, PYTHON="/no/python")
    assert "/no/python: is no program: set PYTHON" in told


def test_launch_tells_a_tpu_what_to_run() -> None:
    printed = said("launch", "--tpu", "pod", "--zone", "a-b", "--dry-run", "--", *TRAIN)
    *words, last = shlex.split(printed)
    assert " ".join(words) == "gcloud compute tpus tpu-vm ssh pod --zone=a-b --worker=all"
    assert shlex.split(last.removeprefix("--command=")) == ["cd", "star_jax", "&&", *TRAIN]


def test_launch_tells_each_host_its_place(tmp_path: Path) -> None:
    args = ("--hosts", "me@one,two", "--port", "99", "--dir", "/data/star jax")
    lines = said("launch", *args, "--dry-run", "--", *TRAIN).splitlines()
    assert len(lines) == 2
    for number, (line, host) in enumerate(zip(lines, ("me@one", "two"), strict=True)):
        *words, last = shlex.split(line)
        assert words == ["ssh", "-o", "BatchMode=yes", host]
        variables = ["JAX_COORDINATOR_ADDRESS=one:99", "JAX_NUM_PROCESSES=2"]
        variables.append(f"JAX_PROCESS_ID={number}")
        assert shlex.split(last) == ["cd", "/data/star jax", "&&", "env", *variables, *TRAIN]


def ssh_here(folder: Path) -> str:
    """A PATH on which ssh runs its command here, in a home folder of its own."""
    (folder / "star_jax").mkdir(parents=True)
    fake = folder / "ssh"
    fake.write_text(f'#!/bin/bash\ncd {shlex.quote(str(folder))} && exec bash -c "${{@: -1}}"\n')
    fake.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_launch_runs_on_every_host_and_tells_the_first_failure(tmp_path: Path) -> None:
    text = 'me=$JAX_PROCESS_ID; echo "$me of $JAX_NUM_PROCESSES, $1" >$me; exit $((me * 3))'
    command = ("bash", "-c", text, "-", "it's `a` $HOME")
    said("launch", "--hosts", "a,b,c", "--", *command, status=3, PATH=ssh_here(tmp_path / "h"))
    for process in range(3):
        wrote = (tmp_path / "h/star_jax" / str(process)).read_text()
        assert wrote == f"{process} of 3, it's `a` $HOME\n"


def test_launch_detaches(tmp_path: Path) -> None:
    """The command's own id is left, for a SIGTERM, and its words in the log."""
    command = ("bash", "-c", "echo begun; while :; do sleep 0.1; done")
    args = ("--hosts", "a", "--detach", "some logs/run.log")
    said("launch", *args, "--", *command, PATH=ssh_here(tmp_path / "h"))
    left = tmp_path / "h/star_jax/some logs/run.log"
    pid = int(left.with_name("run.log.pid").read_text())
    try:
        command_of = ["ps", "-o", "args=", "-p", str(pid)]
        assert "begun" in subprocess.run(command_of, capture_output=True, text=True).stdout
    finally:
        subprocess.run(["kill", str(pid)], check=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_is_what_it_says(path: Path) -> None:
    command = re.search(r"python -m star_jax.train (\w+) --config (\S+)", path.read_text())
    assert command is not None
    assert command[2] == f"tpu/configs/{path.name}"
    kind = config.Ckd if command[1] == "ckd" else config.Sft
    made = flags.load(kind, ["--config", str(path)])
    assert (made.data.max_tokens, made.data.max_targets) == (5632, 512)
    assert (made.batch.examples, made.optimizer.learning_rate) == (128, 3e-6)
    assert (made.optimizer.beta1, made.optimizer.beta2) == (0.9, 0.95)
    assert (made.schedule.curve, made.schedule.final_share) == ("cosine", 0.1)
    if isinstance(made, config.Ckd):
        built = made.objective.build()
        assert (built.kind, built.top_k, built.student_top_m) == ("fkl", 100, 100)
        assert (built.tail_weight, built.kd_ratio) == (10.0, 1.0)
        assert (made.teacher.model is None) == ("cache" in path.name)

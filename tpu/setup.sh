#!/usr/bin/env bash
# star_jax with its accelerator's JAX into a virtual environment of this machine.
set -euo pipefail

usage() {
  cat <<'TEXT'
tpu/setup.sh [--venv DIR] [--extra tpu|gpu]

Makes a virtual environment in this checkout, installs star_jax with the tested versions into it,
and prints the devices that JAX finds on this host. On a host of a pod slice the devices show only
while all its hosts look for them: run it on all of them at once, by tpu/launch.sh.

  --venv DIR       where (default: .venv)
  --extra tpu|gpu  for which accelerator (default: tpu)
  -h, --help       this text

Environment: PYTHON makes the environment (default: the first of python3.12, python3.11, python3).
TEXT
}

refuse() {
  printf 'tpu/setup.sh: %s\n' "$1" >&2
  exit 2
}

venv=.venv extra=tpu
while (($#)); do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --venv) venv=${2:?tpu/setup.sh: --venv: give a folder} && shift 2 ;;
    --extra)
      [[ ${2-} == tpu || ${2-} == gpu ]] || refuse "--extra: is '${2-}': give tpu or gpu"
      extra=$2 && shift 2
      ;;
    *) refuse "$1: is unknown: see -h" ;;
  esac
done
cd "$(dirname "$0")/.."

python=${PYTHON:-$(command -v python3.12 || command -v python3.11 || command -v python3 || true)}
[[ -n $python ]] || refuse "there is no python3: install Python 3.11 or 3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  refuse "$python is $("$python" -V): set PYTHON to Python 3.11 or 3.12"

if [[ ! -x $venv/bin/python ]]; then "$python" -m venv "$venv"; fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extra]"
"$venv/bin/python" -c 'import jax; print("\n".join(map(str, jax.local_devices())))'

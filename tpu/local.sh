#!/usr/bin/env bash
# N processes of one training run on this machine, over loopback: the entry path of a pod, without one.
set -uo pipefail

usage() {
  cat <<'TEXT'
tpu/local.sh [-n N] [--devices D] [--] sft|ckd ARGS...

Starts N processes of `python -m star_jax.train sft|ckd ARGS...` on this machine as one run. They
find each other over 127.0.0.1 on a free port, as those of a pod do over its network.

  -n, --processes N  how many processes (default: 2)
  --devices D        CPU devices of each process (default: 4)
  -h, --help         this text

Each line says which process it is of. SIGTERM or Ctrl-C ends all processes after the same step,
saved; the second one ends them at once. When a process fails, the others get 10 seconds to end by
themselves, then they are killed.

Environment: PYTHON (default: python) runs them; JAX_PLATFORMS (default: cpu) is handed on.
Exit status: that of the first process that fails (75: stopped and saved, the same command goes on).
TEXT
}

refuse() {
  printf 'tpu/local.sh: %s\n' "$1" >&2
  exit 2
}

processes=2 devices=4
while (($#)); do
  case $1 in
    -h | --help) usage && exit 0 ;;
    -n | --processes | --devices)
      [[ ${2-} =~ ^[1-9][0-9]*$ ]] || refuse "$1: is '${2-}': give a number of 1 or more"
      if [[ $1 == --devices ]]; then devices=$2; else processes=$2; fi
      shift 2
      ;;
    --) shift && break ;;
    -*) refuse "$1: is unknown: see -h; what is for the training goes after sft or ckd" ;;
    *) break ;;
  esac
done
[[ ${1-} == sft || ${1-} == ckd ]] || refuse "'${1-}': is no loop: give sft or ckd and its arguments"

python=${PYTHON:-python}
command -v "$python" >/dev/null || refuse "$python: is no program: set PYTHON to a Python with star_jax"
loop=$1
shift

pids=() readers=() running=() asked=0 status=0

# Sends signal $1 to every process that is still there.
tell() {
  local pid
  for pid in ${running[@]+"${running[@]}"}; do kill "-$1" "$pid" 2>/dev/null; done
}

stop() {
  asked=$((asked + 1))
  if ((asked == 1)); then tell TERM; else tell KILL; fi
}

# Children of a script do not hear Ctrl-C: they are told by SIGTERM, which JAX makes them agree on.
trap stop INT TERM HUP
pipes=$(mktemp -d)
trap 'tell KILL; rm -rf "$pipes"' EXIT

label() {
  trap "" INT TERM HUP # until the process that it reads from has ended
  local line
  while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') ||
  refuse "$python: could not find a free port"
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port
export JAX_NUM_PROCESSES=$processes

for ((process = 0; process < processes; process++)); do
  mkfifo "$pipes/out$process" "$pipes/err$process"
  label "$process" <"$pipes/out$process" &
  readers+=($!)
  label "$process" <"$pipes/err$process" >&2 &
  readers+=($!)
  JAX_PROCESS_ID=$process "$python" -u -m star_jax.train "$loop" --compute.cpu_devices "$devices" "$@" \
    >"$pipes/out$process" 2>"$pipes/err$process" &
  pids+=($!)
  printf 'process %d: pid %d\n' "$process" $! >&2
done
running=("${pids[@]}")
# A signal that came while they were started has reached only some of them.
if ((asked)); then tell TERM; fi

number() {
  local process
  for process in "${!pids[@]}"; do
    if [[ ${pids[process]} == "$1" ]]; then printf '%s' "$process"; fi
  done
}

# Takes those that have ended out of `running`, and keeps the first failure in `status`.
reap() {
  local pid left=() alive
  alive=" $(jobs -rp | tr '\n' ' ') "
  for pid in ${running[@]+"${running[@]}"}; do
    if [[ $alive == *" $pid "* ]]; then
      left+=("$pid")
      continue
    fi
    wait "$pid"
    local ended=$?
    if ((ended)); then printf 'process %d: ended with %d\n' "$(number "$pid")" "$ended" >&3; fi
    if ((ended && !status)); then status=$ended; fi
  done
  running=(${left[@]+"${left[@]}"})
}

exec 3>&2 2>/dev/null # bash tells of killed jobs in words of its own
grace=10 failed_at=
while reap && ((${#running[@]})); do
  # Those that were stopped save and end together; after any other failure the others may hang.
  if ((status && status != 75)); then
    failed_at=${failed_at:-$SECONDS}
    if ((SECONDS - failed_at >= grace)); then tell KILL; fi
  fi
  sleep 0.2
done
wait "${readers[@]}"
exit "$status"

#!/usr/bin/env bash
# The same command on every host of a run: the workers of a TPU slice, or any list of hosts.
set -euo pipefail

usage() {
  cat <<'TEXT'
tpu/launch.sh --tpu NAME --zone ZONE [OPTIONS] -- COMMAND WORDS...
tpu/launch.sh --hosts HOST,HOST,... [--port PORT] [OPTIONS] -- COMMAND WORDS...

Runs a command on every worker of a Cloud TPU VM or slice by `gcloud compute tpus tpu-vm ssh`, or
on every host of a list by ssh, and waits for it. TPU workers find each other by themselves; to
listed hosts the command gets JAX_COORDINATOR_ADDRESS (the first host), JAX_NUM_PROCESSES and
JAX_PROCESS_ID. The command is words, not shell text: for the latter give bash -c 'TEXT'.

  --tpu NAME       name of the TPU
  --zone ZONE      its zone
  --project NAME   its project (default: gcloud's own)
  --worker N       on this worker alone (default: all)
  --hosts LIST     hosts, with commas; the first one is process 0
  --port PORT      a free port of the first host (default: 8476)
  --dir DIR        folder to run in, below the home folder or absolute (default: star_jax)
  --detach LOG     go on after this terminal is closed: output to LOG, the process's id to LOG.pid
  --dry-run        print what would be run, and run nothing
  -h, --help       this text

Without --detach, Ctrl-C ends the connection; what runs on the hosts may go on.
TEXT
}

refuse() {
  printf 'tpu/launch.sh: %s\n' "$1" >&2
  exit 2
}

tpu='' zone='' project='' worker=all hosts='' port=8476 dir=star_jax detach='' dry=
while (($#)); do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry=1 && shift ;;
    --tpu | --zone | --project | --worker | --hosts | --port | --dir | --detach)
      [[ -n ${2-} && $2 != --* ]] || refuse "$1: has no value: see -h"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --) shift && break ;;
    *) refuse "$1: is unknown: options go before --, the command after it; see -h" ;;
  esac
done
(($#)) || refuse "there is no command: give it after --"
if [[ -n $tpu && -n $hosts ]]; then refuse "--tpu and --hosts: give one of them"; fi
if [[ -z $tpu && -z $hosts ]]; then refuse "where to? give --tpu NAME --zone ZONE, or --hosts LIST"; fi
if [[ -n $tpu && -z $zone ]]; then refuse "--zone: is missing: give the zone of $tpu"; fi
if [[ -n $hosts && $worker != all ]]; then refuse "--worker: is of --tpu: list the one host"; fi

# Each word after a space, in quotes where a shell would not take it as it is.
quoted() {
  local word quote="'\\''"
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then word="'${word//\'/$quote}'"; fi
    printf ' %s' "$word"
  done
}

# What a host's shell is given; the words before the command are the arguments.
remote() {
  local line
  line="$(quoted "$@" "${command[@]}")"
  if [[ -n $detach ]]; then
    line=" mkdir -p$(quoted "$(dirname "$detach")") && { nohup$line >$(quoted "$detach") 2>&1 </dev/null &"
    line+=" echo \$! >$(quoted "$detach.pid"); }"
  fi
  printf 'cd%s &&%s' "$(quoted "$dir")" "$line"
}

# Runs the words, or prints them.
run() {
  if [[ -n $dry ]]; then
    local line
    line=$(quoted "$@")
    printf '%s\n' "${line# }"
  else
    "$@"
  fi
}

command=("$@")
if [[ -n $tpu ]]; then
  words=(gcloud compute tpus tpu-vm ssh "$tpu" "--zone=$zone" "--worker=$worker")
  if [[ -n $project ]]; then words+=("--project=$project"); fi
  run "${words[@]}" "--command=$(remote)"
  exit
fi

IFS=, read -ra list <<<"$hosts"
pids=()
for number in "${!list[@]}"; do
  joined=(env "JAX_COORDINATOR_ADDRESS=${list[0]#*@}:$port")
  joined+=("JAX_NUM_PROCESSES=${#list[@]}" "JAX_PROCESS_ID=$number")
  words=(ssh -o BatchMode=yes "${list[number]}" "$(remote "${joined[@]}")")
  if [[ -n $dry ]]; then
    run "${words[@]}"
  else
    run "${words[@]}" </dev/null &
    pids+=($!)
  fi
done
status=0
for pid in ${pids[@]+"${pids[@]}"}; do
  wait "$pid" || { ended=$? && status=$((status ? status : ended)); }
done
exit "$status"

"""The commands `cache build`, `cache verify` and `cache info`.

`python -m star_jax.data cache …` runs them. jax is imported by those that score, once what they
were asked makes sense.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_jax.data.cache import manifest as manifest_module
from star_jax.data.cache import reader, shard
from star_jax.data.cache.manifest import Manifest

if TYPE_CHECKING:
    from star_jax.data.cache.build import Plan
    from star_jax.data.cache.source import Source

PROG = "python -m star_jax.data cache"


def main(argv: Sequence[str]) -> int:
    """0: done, or nothing differs. 1: `verify` found a difference. 2: the request cannot be met."""
    arguments = _parser().parse_args(list(argv))
    try:
        return arguments.run(arguments)
    except BrokenPipeError:
        raise  # the reader of our output has seen enough; data's main knows what to do
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it was" if arguments.run is _build else ""
        sys.stderr.write(f"\ncache: interrupted{goes_on}\n")
        return 130
    except (ValueError, OSError) as error:
        sys.stderr.write(f"cache: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG, description="What a teacher says of every target, kept on the disk."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="run the teacher once over a file of rows")
    verify = commands.add_parser("verify", help="check hashes and bytes, and score a sample again")
    info = commands.add_parser("info", help="what a cache is of, and how large it is")
    for command, run in ((build, _build), (verify, _verify), (info, _info)):
        command.add_argument("folder", type=Path, metavar="FOLDER", help="the cache")
        command.set_defaults(run=run)
    for command in (build, verify):
        _add_source(command)
    _add_form(build)
    build.add_argument("--part", type=_part, default=(0, 1), metavar="I/N", help=PART)
    build.add_argument("--dry-run", action="store_true", help="say what it would do, and stop")
    verify.add_argument("--sample", type=_above_0, default=64, metavar="N", help="rows (64)")
    verify.add_argument("--seed", type=_whole, default=0, help="of the sample (0)")
    verify.add_argument(
        "--tolerance",
        type=_nats,
        metavar="NATS",
        help="what two runs of the teacher may differ by (0.001 in float32, 0.5 in bfloat16)",
    )
    return parser


PART = "make the shards whose number leaves I when divided by N: N processes share a build (0/1)"


def _add_source(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--teacher", type=Path, required=True, metavar="FOLDER", help="a Hugging Face folder")
    add("--rows", type=Path, required=True, metavar="FILE", help=".jsonl, .jsonl.gz or .parquet")
    add(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="the student, whose tokenizer and chat template make the rows (the teacher's own)",
    )
    add("--skip-bad", type=_whole, default=0, metavar="N", help="bad rows to leave out (0)")
    add(
        "--batch-tokens",
        type=_above_0,
        default=16384,
        metavar="N",
        help="tokens that each device of data × fsdp computes at once (16384)",
    )
    for axis, size, what in (
        ("data", -1, "copies of the teacher; -1: as many as devices are left"),
        ("fsdp", 1, "devices that share a copy's width"),
        ("tensor", 1, "devices that share its heads and vocabulary"),
    ):
        add(
            f"--mesh.{axis}",
            dest=axis,
            type=int,
            default=size,
            metavar="N",
            help=f"{what} ({size})",
        )


def _add_form(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--top-k", type=_above_0, default=100, metavar="N", help="tokens a position (100)")
    add(
        "--dtype",
        choices=tuple(shard.DTYPES),
        default="float16",
        help="of the stored log-probs (float16)",
    )
    add(
        "--compute",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="what the teacher computes in (bfloat16)",
    )
    add("--approximate", action="store_true", help="top-k by approx_max_k, which TPUs are fast at")
    add(
        "--reasoning",
        choices=("keep", "drop"),
        default="keep",
        help="what becomes of the answers' reasoning_content (keep)",
    )
    add(
        "--rows-per-shard",
        type=_above_0,
        metavar="N",
        help="rows of a file of the cache (as many as make about 64 MB)",
    )


def _whole(text: str, least: int = 0) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} on")
    return int(text)


def _above_0(text: str) -> int:
    return _whole(text, least=1)


def _nats(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 on")
    return value


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: give I/N, I from 0 to N - 1")
    return int(found[1]), int(found[2])


def _source(arguments: argparse.Namespace, reasoning: str) -> Source:
    from star_jax.data.cache import source

    return source.read(
        arguments.teacher,
        arguments.rows,
        model=arguments.model,
        reasoning=reasoning,
        skip_bad=arguments.skip_bad,
    )


def _mesh(arguments: argparse.Namespace) -> Any:
    from star_jax import models

    return models.make_mesh(arguments.data, arguments.fsdp, arguments.tensor)


def _progress(tokens: int, arguments: argparse.Namespace) -> Any:
    import tqdm

    return tqdm.tqdm(
        total=tokens,
        unit="tok",
        unit_scale=True,
        desc=arguments.folder.name,
        file=sys.stderr,
        mininterval=1 if sys.stderr.isatty() else 30,  # a log needs no ten lines a second
    )


def _build(arguments: argparse.Namespace) -> int:
    from star_jax.data.cache import build

    plan = build.plan(
        arguments.folder,
        _source(arguments, arguments.reasoning),
        top_k=arguments.top_k,
        dtype=arguments.dtype,
        compute_dtype=arguments.compute,
        approximate=arguments.approximate,
        rows_per_shard=arguments.rows_per_shard,
        part=arguments.part,
    )
    _write(planned(plan))
    build.check_space(plan)
    if arguments.dry_run:
        return 0
    if plan.to_make:
        mesh = _mesh(arguments)
        with _progress(plan.tokens_to_make, arguments) as bar:
            build.run(plan, mesh, tokens=arguments.batch_tokens, on_batch=bar.update)
    left = len(build.remaining(plan).missing)
    made = plan.manifest
    end = "complete" if left == 0 else f"{left} left for other parts"
    _write([f"{arguments.folder}: {made.shards - left} of {made.shards} shards are there: {end}"])
    return 0


def planned(plan: Plan) -> Iterable[str]:
    """What a build will cost."""
    made = plan.manifest
    yield f"rows              {made.rows:,} of {plan.source.rows}"
    yield f"target positions  {made.positions:,}"
    yield f"each              the best {made.top_k:,} of {made.vocab_size:,} tokens, {made.dtype}"
    yield f"on disk           {plan.bytes_in_all:,} bytes when it is complete"
    yield f"shards            {made.shards:,} of up to {made.rows_per_shard:,} rows"
    here = "" if len(plan.mine) == made.shards else f", of this part's {len(plan.mine):,}"
    yield f"to make           {len(plan.to_make):,}{here}, {plan.bytes_to_make:,} bytes"


def _verify(arguments: argparse.Namespace) -> int:
    from star_jax.data.cache import verify

    cache = reader.Cache(arguments.folder)
    origin = _source(arguments, cache.manifest.reasoning)
    wrong = [*verify.identities(cache, origin), *verify.damages(cache)]
    if wrong:
        _write(wrong)
        return 1
    _write([f"{len(cache.shards)} shards intact; teacher, tokenizer, template and rows as built"])
    places = verify.sample(len(cache), arguments.sample, arguments.seed)
    with _progress(int(origin.examples.lengths[places].sum()), arguments) as bar:
        report = verify.rescore(
            cache,
            origin,
            places=places,
            mesh=_mesh(arguments),
            noise=arguments.tolerance,
            tokens=arguments.batch_tokens,
            on_batch=bar.update,
        )
    _write(report.lines)
    _write(
        [
            f"{report.rows:,} of {len(cache):,} rows scored again, {report.positions:,} targets: "
            f"log-probs differ by up to {report.largest:.2g} nats, "
            + ("which storing and computing explain" if not report.lines else "see above")
        ]
    )
    return int(bool(report.lines))


def _info(arguments: argparse.Namespace) -> int:
    made = manifest_module.read(arguments.folder)
    _write(described(arguments.folder, made))
    return 0


def described(folder: Path, made: Manifest) -> Iterable[str]:
    """A cache in words."""
    absent = reader.missing(folder, made)
    there = [shard.name_of(i) for i in range(made.shards) if i not in set(absent)]
    held = sum((folder / name).stat().st_size for name in [manifest_module.FILE, *there])
    kind = "approximate" if made.approximate else "exact"
    model = made.model or made.teacher
    yield f"{folder}: a teacher's cache, format {made.format}, by star_jax {made.star_jax}"
    yield f"teacher    {made.teacher} ({made.teacher_hash}), computed in {made.compute_dtype}"
    yield f"rows       {made.rows:,} of {made.rows_file}, {made.positions:,} target positions"
    yield f"tokens     by {model}: tokenizer {made.tokenizer_hash}, template {made.template_hash}"
    yield f"reasoning  {'kept' if made.reasoning == 'keep' else 'dropped'}"
    lists = f"{kind} top-{made.top_k} of {made.vocab_size:,} tokens"
    yield f"lists      {lists}, {made.dtype} log-probs"
    yield f"on disk    {held:,} bytes in {len(there):,} of {made.shards:,} shards"
    if absent:
        yield f"unfinished, go on with {made.command(folder)}"


def _write(text: Iterable[str]) -> None:
    sys.stdout.writelines(line + "\n" for line in text)
    sys.stdout.flush()

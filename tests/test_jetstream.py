"""JetStream's Driver and orchestrator over an engine of a few lines, and without the package."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.sampler import jetstream
from star_jax.sampler.jetstream import own, upstream

installed = pytest.mark.skipif(
    not jetstream.is_installed, reason="google-jetstream is absent: `make` installs it"
)
EOS = 5
ENDLESS = 1  # a sample of a prompt that begins with this never ends by itself


def next_token(sequence: list[int], params: int) -> int:
    """A token that depends on every token before it; about one in thirteen ends the sample."""
    state = params
    for token in sequence:
        state = (state * 31 + token + 7) % 10_007
    return EOS if state % 13 == 0 and sequence[0] != ENDLESS else 6 + state % 90


def expected(prompt: list[int], max_tokens: int, params: int = 1) -> list[int]:
    made: list[int] = []
    while len(made) < max_tokens and (token := next_token(prompt + made, params)) != EOS:
        made.append(token)
    return made


class Hashing(jetstream.Engine):
    """`next_token` behind the interface. A decode state is a list of (sequence, made) per slot."""

    def __init__(self, slots: int = 8, fail_at: int | None = None) -> None:
        self.slots, self.fail_at, self.steps = slots, fail_at, 0
        self.hold = threading.Event()
        self.hold.set()

    def prefill(self, *, params, padded_tokens, true_length, existing_prefix=None, **_):
        assert padded_tokens.ndim == 1
        assert (np.asarray(padded_tokens)[true_length:] == 0).all()
        return {"tokens": jnp.asarray(padded_tokens), "length": np.int32(true_length)}

    def insert(self, prefix, decode_state, slot, **_):
        sequence = np.asarray(prefix["tokens"])[: int(prefix["length"])].tolist()
        return [*decode_state[:slot], (sequence, 0), *decode_state[slot + 1 :]]

    def generate(self, params, decode_state):
        assert self.hold.wait(300)
        self.steps += 1
        if self.steps == self.fail_at:
            raise ArithmeticError("the cache is full")
        rows, after = [], []
        for sequence, made in decode_state:
            token = next_token(sequence, jetstream.unbox(params))
            rows.append([token, 1, made + 1])
            after.append(([*sequence, token], made + 1))
        return after, jetstream.ResultTokens(np.array(rows, np.int32), (0, 1), (1, 2), (2, 3), 1)

    def init_decode_state(self, *args, **kwargs):
        return [([0], 0)] * self.slots

    def load_params(self, *args, **kwargs):
        return 1

    def get_prefix_destination_sharding(self):
        return jax.sharding.SingleDeviceSharding(jax.devices()[1])

    def get_tokenizer(self):
        return None

    def build_tokenizer(self, metadata):
        return jetstream.Tokenizer(
            eos_ids=[EOS], pad_id=0, decode=lambda ids: "".join(map(chr, ids)), encode=str.encode
        )

    @property
    def max_concurrent_decodes(self):
        return self.slots

    @property
    def samples_per_slot(self):
        return 1

    @property
    def max_prefill_length(self):
        return 100  # no power of two

    @property
    def mesh(self):
        raise NotImplementedError

    @property
    def colocated_cpus(self):
        return None


def drive(engine: Any, params: Any = 1, interleaved: bool = True) -> Any:
    return jetstream.SafeDriver(
        [engine],
        [engine if interleaved else Hashing(engine.slots)],
        [params],
        [params],
        interleaved_mode=interleaved,
    )


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def prompts(n: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(6, 96, rng.integers(1, 101)).tolist() for _ in range(n)]


@installed
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("slots", [1, 8])
def test_64_requests_at_once_get_the_tokens_of_one_alone(
    interleaved: bool, slots: int, no_thread_left: None
) -> None:
    asked = prompts(64)
    limits = [1 + number % 40 for number in range(64)]
    want = [expected(prompt, limit) for prompt, limit in zip(asked, limits, strict=True)]
    assert len({len(tokens) for tokens in want}) > 10  # ended by themselves and by their limits
    with drive(Hashing(slots), interleaved=interleaved) as driver:
        assert jetstream.serve_tokens(driver, asked, limits) == want
        # Again, on the same loop: nothing of the first round is left.
        assert jetstream.serve_tokens(driver, asked[::-1], limits[::-1]) == want[::-1]
        assert not driver._open


@installed
def test_each_round_may_have_a_loop_of_its_own(no_thread_left: None) -> None:
    """The driver's thread closes a channel whose loop has just gone."""

    async def one(prompt: list[int]) -> list[int]:
        return [i async for ids in jetstream.decode(driver, prompt, 9) for i in ids]

    with drive(Hashing()) as driver:
        for prompt in prompts(30):
            assert asyncio.run(one(prompt)) == expected(prompt, 9)


@installed
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("n", [1, 64])  # threads that wait for work, and threads that have too much
def test_a_failing_engine_ends_its_requests_and_nothing_else(
    n: int, interleaved: bool, no_thread_left: None, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Hashing(slots=2, fail_at=4)
    others = {} if interleaved else {"prefill": Hashing(2)}
    driver = jetstream.SafeDriver(
        [others.get("prefill", failing)], [failing], [1], [1], interleaved_mode=interleaved
    )
    cause = "raised ArithmeticError: the cache is full"
    with driver:
        with pytest.raises(RuntimeError, match=cause):
            jetstream.serve_tokens(driver, [[ENDLESS]] * n, 30)
        with pytest.raises(RuntimeError, match=cause) as caught:
            jetstream.serve_tokens(driver, [[7]], 3)
        assert isinstance(caught.value.__cause__, ArithmeticError)
        for thread in driver._all_threads:  # they end without being told to
            thread.join(120)
            assert not thread.is_alive()
    assert "the cache is full" in caplog.text


@installed
def test_a_prefill_that_fails_is_told_as_well(no_thread_left: None) -> None:
    engine = Hashing()
    engine.prefill = lambda **_: 1 / 0  # ty: nothing of the interface
    with drive(engine) as driver, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        jetstream.serve_tokens(driver, prompts(20), 3)


@installed
def test_stop_ends_what_is_open(no_thread_left: None) -> None:
    engine = Hashing(slots=2)
    engine.hold.clear()
    driver = drive(engine)
    failures: list[str] = []

    def ask() -> None:
        try:
            jetstream.serve_tokens(driver, prompts(10), 50)
        except RuntimeError as error:
            failures.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    while len(driver._open) < 10:
        threading.Event().wait(0.01)
    release = threading.Timer(0.05, engine.hold.set)
    release.start()
    driver.stop()  # it finds a thread inside the engine
    release.join()
    asking.join(120)
    assert failures == ["the JetStream driver serves no more requests: it was stopped"]
    driver.stop()  # twice is once


@installed
def test_a_request_that_nobody_reads_gives_its_slot_back(no_thread_left: None) -> None:
    endless, engine = [ENDLESS, 7], Hashing(slots=1)

    async def leave() -> list[int]:
        stream = jetstream.decode(driver, endless, 3000)
        async for ids in stream:
            await stream.aclose()
            return ids
        raise AssertionError("no token came")

    with drive(engine) as driver:
        assert driver.run(leave()) == expected(endless, 1)
        assert not driver._open
        assert jetstream.serve_tokens(driver, [[9, 9]], 5) == [expected([9, 9], 5)]
        assert engine.steps < 1000


@installed
@pytest.mark.parametrize(
    ("prompt", "limit", "sentence"),
    [
        ([], 3, "the prompt has 0 tokens, this engine takes 1 to 100"),
        ([7] * 101, 3, "the prompt has 101 tokens, this engine takes 1 to 100"),
        ([7], 0, "max_tokens must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_served_is_refused_alone(
    prompt: list[int], limit: int, sentence: str
) -> None:
    with drive(Hashing()) as driver:
        with pytest.raises(ValueError, match=sentence):
            jetstream.serve_tokens(driver, [[8], prompt], [3, limit])
        assert jetstream.serve_tokens(driver, [[8]], 3) == [expected([8], 3)]


@installed
def test_text_goes_in_and_comes_out() -> None:
    async def ask() -> str:
        content = messages.TextContent(text="hé")
        request = messages(text_content=content, max_tokens=12)
        stream = jetstream.orchestrator(driver).Decode(request)
        return "".join([r.stream_content.samples[0].text async for r in stream])

    messages = upstream.orchestrator().jetstream_pb2.DecodeRequest
    with drive(Hashing()) as driver:
        assert driver.run(ask()) == "".join(map(chr, expected(list("hé".encode()), 12)))


@installed
def test_weights_are_exchanged_under_a_running_driver() -> None:
    box = jetstream.Box(1)
    with drive(Hashing(), box) as driver:
        assert jetstream.serve_tokens(driver, [[7, 8]], 9) == [expected([7, 8], 9, params=1)]
        box.params = 2
        assert jetstream.serve_tokens(driver, [[7, 8]], 9) == [expected([7, 8], 9, params=2)]
        assert expected([7, 8], 9, params=1) != expected([7, 8], 9, params=2)


@installed
def test_a_slot_that_comes_back_between_two_looks_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = upstream.orchestrator().Driver
    real = base._generate_thread
    sentence = "At this point we must have some requests inserted into the slots."
    assert sentence in inspect.getsource(real)
    raised = []

    def raising_once(self: Any, idx: int) -> None:
        if not raised:
            raised.append(idx)
            raise AssertionError(sentence)
        real(self, idx)

    monkeypatch.setattr(base, "_generate_thread", raising_once)
    with drive(Hashing()) as driver:
        assert jetstream.serve_tokens(driver, [[8]], 3) == [expected([8], 3)]
    assert raised


@installed
def test_a_thread_of_a_plain_driver_kills_no_process(caplog: pytest.LogCaptureFixture) -> None:
    thread = upstream.orchestrator().JetThread(target=lambda: 1 / 0, name="broken")
    assert thread.daemon
    thread.start()
    thread.join()
    assert "thread broken of the driver failed" in caplog.text


def run(code: str, *paths: Path) -> str:
    """A fresh interpreter, in which warnings are errors, with `paths` before all others."""
    head = f"import sys; sys.path[:0] = {[str(path) for path in paths]}\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_star_jax_imports_neither_jetstream_nor_tensorflow() -> None:
    run(
        "import star_jax, star_jax.sampler\n"
        "assert not {'jetstream', 'tensorflow', 'seqio', 'grpc'} & set(sys.modules)"
    )


@installed
def test_importing_the_driver_leaves_the_process_as_it_was() -> None:
    out = run(
        "import logging\n"
        "root = logging.getLogger(); before = root.level, list(root.handlers)\n"
        "from star_jax.sampler.jetstream import Engine, SafeDriver, upstream\n"
        "assert Engine.__module__ == 'jetstream.engine.engine_api'\n"
        "upstream.orchestrator().logging.info('nothing'); upstream._log.info('nothing')\n"
        "upstream.orchestrator().token_utils.logging.info('nothing')\n"
        "assert (root.level, root.handlers) == before, root.handlers\n"
        "assert not {'tensorflow', 'seqio'} & set(sys.modules)\n"
        "print('fine')"
    )
    assert out == "fine"


def test_our_own_interface_is_jetstreams() -> None:
    assert len(own.Engine.__abstractmethods__) == 12
    theirs = upstream.engine_api() if jetstream.is_installed else own
    assert own.Engine.__abstractmethods__ == theirs.Engine.__abstractmethods__
    assert vars(own.Engine).keys() & {"build_tokenizer"}
    for name in own.Engine.__abstractmethods__:
        ours, real = getattr(own.Engine, name), getattr(theirs.Engine, name)
        assert isinstance(ours, property) == isinstance(real, property)
        if not isinstance(ours, property):
            assert [*inspect.signature(ours).parameters] == [*inspect.signature(real).parameters]
    for name in ("ResultTokens", "SlotData"):
        ours, real = getattr(own, name), getattr(theirs, name)
        assert [*ours.__dataclass_fields__] == [*real.__dataclass_fields__]


def test_our_own_results_are_read_as_jetstreams() -> None:
    data = np.arange(40, dtype=np.int32).reshape(4, 10)
    layout = ((0, 3), (3, 6), (6, 7), 2)
    theirs = upstream.engine_api() if jetstream.is_installed else own
    for array in (data, jnp.asarray(data)):
        pair = []
        for module in (own, theirs):
            results = module.ResultTokens(array, *layout)
            results.copy_to_host_async()
            results = results.convert_to_numpy()
            assert type(results.data) is np.ndarray
            pair.append(results.get_result_at_slot(1))
        np.testing.assert_array_equal(pair[0].tokens, data[2:4, :3])
        np.testing.assert_array_equal(pair[0].valid, data[2:4, 3:6])
        np.testing.assert_array_equal(pair[0].lengths, data[2:4, 6])
        jax.tree.map(np.testing.assert_array_equal, vars(pair[0]), vars(pair[1]))


def test_log_probs_ride_in_the_same_copy() -> None:
    logp = np.array([[-0.1, -2.5e-7], [-30.25, -np.inf], [0.0, -1.0], [-3.0, -4.0]], np.float32)
    tokens = np.arange(8, dtype=np.int32).reshape(4, 2)
    valid = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], bool)
    packed = jax.jit(lambda *args: jetstream.pack(*args, samples_per_slot=2))(
        tokens, valid, np.array([3, 4, 5, 6], np.int32), logp
    )
    assert isinstance(packed, jetstream.ResultTokens)
    assert packed.data.dtype == jnp.int32
    host = packed.convert_to_numpy()
    assert isinstance(host, jetstream.RolloutTokens)
    assert type(host.data) is np.ndarray
    at = host.get_result_at_slot(1)
    np.testing.assert_array_equal(at.tokens, tokens[2:])
    np.testing.assert_array_equal(at.valid, valid[2:])
    np.testing.assert_array_equal(at.lengths, [5, 6])
    np.testing.assert_array_equal(host.logprobs_at_slot(0), logp[:2])
    np.testing.assert_array_equal(host.logprobs_at_slot(1), logp[2:])


def test_without_the_package_the_engine_stands_on_our_own_interface() -> None:
    out = run(
        "sys.modules['jetstream'] = None\n"
        "from star_jax.sampler import jetstream\n"
        "from star_jax.sampler.jetstream import own\n"
        "assert jetstream.Engine is own.Engine and not jetstream.is_installed\n"
        "assert issubclass(jetstream.RolloutTokens, own.ResultTokens)\n"
        "try: jetstream.SafeDriver\n"
        "except ImportError as error: print(error)"
    )
    assert out.startswith("google-jetstream is not installed: pip install --no-deps")


def test_the_other_project_of_that_name_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "jetstream").mkdir()
    (tmp_path / "jetstream" / "__init__.py").write_text("")
    out = run(
        "from star_jax.sampler import jetstream\n"
        "assert not jetstream.is_installed\n"
        "try: jetstream.require()\n"
        "except ModuleNotFoundError as error: print(error)",
        tmp_path,
    )
    where = tmp_path / "jetstream" / "__init__.py"
    assert out.startswith(f"{where}: this module jetstream is another project than google-jetst")


@installed
def test_what_is_lacking_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shortuuid", None)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ImportError, match="lacks grpcio, shortuuid: pip install grpcio shortuuid"):
        jetstream.require()


def test_a_channel_ends_once_and_outlives_its_loop() -> None:
    ends: list[bool] = []

    async def use() -> upstream.Channel:
        channel = upstream.Channel()
        channel.on_end = ends.append
        channel.add_result(1)
        channel.close()
        channel.set_exception(RuntimeError("too late"))
        channel.add_result(2)
        assert [result async for result in channel] == [1]
        assert [result async for result in channel] == []
        return upstream.Channel()

    open_channel = asyncio.run(use())
    assert ends == [False]
    open_channel.add_result(3)  # the loop is closed
    open_channel.cancel()
    assert open_channel.cancelled()

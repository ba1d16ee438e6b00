"""Counts of a server, and how Prometheus reads them."""

from __future__ import annotations

from collections import Counter, defaultdict

PREFIX = "star_jax_"


class Metrics:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.seconds: defaultdict[str, float] = defaultdict(
            float
        )  # by path, from headers to the last byte
        self.first_token: tuple[float, int] = (0.0, 0)  # seconds, requests
        self.prompt_tokens = 0
        self.new_tokens = 0
        self.cancelled = 0  # requests whose client had left, or whose time was up

    def heard_first(self, seconds: float) -> None:
        total, count = self.first_token
        self.first_token = total + seconds, count + 1

    def text(self, *, running: int, waiting: int, is_healthy: bool) -> str:
        paths = Counter[str]()
        for (path, _), count in self.requests.items():
            paths[path] += count
        total, count = self.first_token
        blocks = [
            _block(
                "requests_total",
                "counter",
                "Requests answered, by path and status; 499 is a client that left.",
                {
                    f'{{path="{path}",status="{status}"}}': number
                    for (path, status), number in sorted(self.requests.items())
                },
            ),
            _block(
                "request_seconds",
                "summary",
                "Seconds from a request's headers to the end of its answer.",
                {f'_sum{{path="{path}"}}': self.seconds[path] for path in sorted(paths)}
                | {f'_count{{path="{path}"}}': paths[path] for path in sorted(paths)},
            ),
            _block(
                "first_token_seconds",
                "summary",
                "Seconds until the sampler has given an answer's first token.",
                {"_sum": total, "_count": count},
            ),
            _block("prompts_running", "gauge", "Prompts that are being answered.", {"": running}),
            _block("prompts_waiting", "gauge", "Prompts without a token yet.", {"": waiting}),
            _block("prompt_tokens_total", "counter", "Tokens read.", {"": self.prompt_tokens}),
            _block("new_tokens_total", "counter", "Tokens sampled.", {"": self.new_tokens}),
            _block(
                "requests_cancelled_total",
                "counter",
                "Requests that ended before their answer did.",
                {"": self.cancelled},
            ),
            _block("healthy", "gauge", "1 while the sampler works.", {"": int(is_healthy)}),
        ]
        return "".join(blocks)


def _block(name: str, kind: str, about: str, values: dict[str, float]) -> str:
    name = PREFIX + name
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    return "\n".join([*lines, *(f"{name}{key} {value}" for key, value in values.items()), ""])

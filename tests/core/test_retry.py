"""Which requests are retried, when, and for how long."""

import math
from collections.abc import Iterator

import pytest

from training.core.retry import retrying


class Server:
    """Fails with each of these errors in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def away(error: BaseException) -> bool:
    return isinstance(error, ConnectionError)


def test_pauses_double_up_to_the_maximum() -> None:
    server, pauses = Server(*[ConnectionError()] * 6), list[float]()
    retry = retrying(away, lambda: math.inf, first=0.5, most=4.0, sleep=pauses.append)
    assert retry(server) == "answer"
    assert pauses == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_an_error_that_is_not_transient_is_raised_at_once() -> None:
    server = Server(ConnectionError(), PermissionError("no"))
    with pytest.raises(PermissionError, match="no"):
        retrying(away, lambda: math.inf, sleep=lambda _: None)(server)
    assert server.calls == 2


def test_without_patience_there_is_one_attempt_and_its_own_error() -> None:
    server = Server(ConnectionError("first"), ConnectionError("second"))
    with pytest.raises(ConnectionError, match="first"):
        retrying(away, lambda: 0.0)(server)
    assert server.calls == 1


def test_no_pause_outlasts_the_patience() -> None:
    server, pauses = Server(*[ConnectionError()] * 9), list[float]()
    with pytest.raises(ConnectionError):
        retrying(away, lambda: 3.0, sleep=pauses.append)(server)
    assert pauses == [0.5, 1.0, 2.0]


def test_the_patience_is_read_after_every_attempt() -> None:
    """A process that is being stopped gives up early."""
    left: Iterator[float] = iter([math.inf, math.inf, -1.0])
    server = Server(*[ConnectionError()] * 9)
    with pytest.raises(ConnectionError):
        retrying(away, lambda: next(left), sleep=lambda _: None)(server)
    assert server.calls == 3


def test_each_failure_is_reported_before_its_pause() -> None:
    reported: list[str] = []
    retry = retrying(
        away, lambda: math.inf, sleep=lambda _: reported.append("pause"),
        failed=lambda state: reported.append(str(state.outcome and state.outcome.exception())),
    )  # fmt: skip
    retry(Server(ConnectionError("a"), ConnectionError("b")))
    assert reported == ["a", "pause", "b", "pause"]

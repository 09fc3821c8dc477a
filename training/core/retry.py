"""One policy for requests to a server that may be away: growing pauses, up to a patience."""

import time
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential


def retrying(
    transient: Callable[[BaseException], bool],
    patience: Callable[[], float],
    *,
    first: float = 0.5,
    most: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
    failed: Callable[[RetryCallState], None] | None = None,
) -> Retrying:
    """Repeats a call that raises a `transient` error, and raises its last error in the end.

    The pauses double from `first` to `most` s. A pause that would end more than `patience()` s
    after the first try is not made; `patience` is asked after every try, since it may change.
    `failed` is called before each pause, and `sleep` makes it.
    """

    def stop(state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep > patience()

    return Retrying(
        retry=retry_if_exception(transient),
        wait=wait_exponential(multiplier=first, max=most),
        stop=stop,
        sleep=sleep,
        before_sleep=failed,
        reraise=True,
    )

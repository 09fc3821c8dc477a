"""Which errors may pass, and the retry policy for requests: back-off up to a time limit."""

import time
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError,
           PermissionError)  # fmt: skip


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later without any change by the user.

    True for the system's errors (a full disk, a lost connection) but missing or forbidden files,
    for those of libraries, such as a locked database, and for classes with `transient = True`; also
    if such an error is the cause of `error`.
    """
    if not isinstance(error, ValueError | OSError):
        return True
    link: BaseException | None = error
    while link is not None:
        if getattr(link, "transient", False):
            return True
        if isinstance(link, OSError) and not isinstance(link, LASTING):
            return True
        link = link.__cause__
    return False


def retrying(
    transient: Callable[[BaseException], bool],
    patience: Callable[[], float],
    *,
    first: float = 0.5,
    most: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
    failed: Callable[[RetryCallState], None] | None = None,
) -> Retrying:
    """A retrier that repeats a call while it raises a `transient` error, then reraises the last.

    Pauses double from `first` to `most` s. Retrying stops before a pause that would end more than
    `patience()` s after the first attempt; `patience` is called after every attempt, since it may
    change. `failed` is called before each pause; `sleep` does the pause.
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

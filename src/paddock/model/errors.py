"""One error root. A class's docstring is its default message; what, where and what to do belong in the text."""

from __future__ import annotations


class PaddockError(Exception):
    """Something went wrong in Paddock."""

    code = "error"
    """Stable short name: the `type` of the problem details and the `error.code` of a failed task."""

    status = 500
    """The HTTP status at the API's door."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").splitlines()[0])

    @property
    def message(self) -> str:
        """The one sentence for people."""
        return str(self.args[0])


class Refused(PaddockError):
    """The input was refused; nothing was changed."""

    code, status = "refused", 422


class NotFound(PaddockError):
    """There is no such thing."""

    code, status = "not-found", 404


class Conflict(PaddockError):
    """It exists already, or was changed by someone else meanwhile."""

    code, status = "conflict", 409


class QueueFull(PaddockError):
    """The fleet's queue is full; try again later."""

    code, status = "queue-full", 429

    def __init__(self, message: str | None = None, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLarge(PaddockError):
    """The payload is over the limit."""

    code, status = "too-large", 413


class Unavailable(PaddockError):
    """A part that is needed does not answer now; the same call may work later."""

    code, status = "unavailable", 503


class TimedOut(Unavailable):
    """No answer came in time."""

    code, status = "timed-out", 504


class Unsynced(Unavailable):
    """Written, but nobody says whether it is on disk."""


class NoResponders(Unavailable):
    """Nobody listens on that subject."""

    code = "no-responders"


class Denied(PaddockError):
    """This identity may not do that."""

    code, status = "denied", 403


class TemplateBroken(PaddockError):
    """The template cannot be made live: its code does not import, its class or its command does not exist."""

    code, status = "template-broken", 422


class DataDirError(PaddockError):
    """The data directory cannot be used."""

    code = "data-dir"


class TaskError(PaddockError):
    """The task failed; raise it in an agent to fail a task with a clear message and no traceback."""

    code = "task-failed"
    status = 200

    def __init__(self, message: str | None = None, *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code


class Retry(TaskError):
    """Raise it in an agent to have this task tried again, whatever its method's retries say of other errors."""

    code = "retry"

"""The one error that means: the user can fix this; and the one of a run that was told to stop."""

_IN_WORKER = "\nOriginal Traceback (most recent call last):"


class UserError(ValueError):
    """A mistake in what the user gave (a path, a config, a checkpoint, a flag).

    The message is one line: it names the thing that is wrong and says what to do. The command
    line tools print it to stderr and exit with status 2; library code may raise it anywhere.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if _IN_WORKER in text:  # PyTorch made it: the traceback in the worker, then our message
            text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
        super().__init__(text)

    is_shown = True
    """Whether the command line prints it: another process of the run may have done so."""
    status = 2
    """The exit status of the command line."""
    prefix = "error: "
    """What the command line prints before the message."""


class StoppedError(UserError):
    """A training stopped because it got a signal; the message says how to go on.

    Args:
        message: one line.
        signal: the number of the signal. The exit status is 128 more, which is what shells and
            cluster managers see of a process that a signal ends.
    """

    prefix = ""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal


def reason_of(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"

"""The one error that means: the user can fix this."""

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

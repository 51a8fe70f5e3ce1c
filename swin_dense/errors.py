"""The one error that means: the user can fix this."""


class UserError(ValueError):
    """A mistake in what the user gave (a path, a config, a checkpoint, a flag).

    The message is one line: it names the thing that is wrong and says what to do. The command
    line tools print it to stderr and exit with status 2; library code may raise it anywhere.
    """

    is_shown = True
    """Whether the command line prints it: another process of the run may have done so."""

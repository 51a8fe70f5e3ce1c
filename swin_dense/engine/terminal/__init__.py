"""What the user meets on the command line: flags, messages, progress, metrics, errors."""

"""The errors a user can act on: each message says what is wrong, where, and how to mend it."""


class DensesslError(Exception):
    """Base of the errors below; the trainer prints the message without a traceback.

    `exit_code` is the status with which the command-line tools leave.
    """

    exit_code = 1


class ConfigError(DensesslError):
    """A config value, override or command-line argument cannot be used."""

    exit_code = 2


class DataError(DensesslError):
    """Images, annotations or dataset folders are missing, empty or unreadable."""

    exit_code = 3


class CheckpointError(DensesslError):
    """A checkpoint is damaged, unsafe, or does not belong to this model or run."""

    exit_code = 4


class LostProcessError(DensesslError):
    """Another process of the run has stopped, so this one cannot go on either."""


class NonFiniteError(DensesslError):
    """A loss or gradient stopped being finite; nothing was updated with it."""

    exit_code = 5

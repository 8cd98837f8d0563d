"""The one base of all errors that a user can put right, and that of input and output.

A command prints such an error as one line on stderr and ends with its `exit_status`; everything else is a fault of
the kit's and shows its traceback.
"""


class KitError(Exception):
    """The message is one line: what is wrong, where, what to do."""

    exit_status = 2
    told_elsewhere = False  # by another process of the same run, so this one is silent


class DataError(KitError):
    """Input or output that stops the work. The message is one line: what, where, what to do."""

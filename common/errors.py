"""The exceptions that are not defects.

Every command turns them into a single line on standard error and an exit code: ``RunFailed`` 1 (or its own),
``InputError`` 2, ``Interrupted`` 130. Every other exception is a defect of this project and keeps its traceback.
"""


class RunFailed(Exception):
    """The run cannot go on (diverged, out of memory ...): one line with what happened and what to try.

    Attributes:
        exit_code: Of the command; a kind of failure that scripts tell from others has another.
    """

    exit_code = 1


class InputError(Exception):
    """Bad usage or bad input: one line naming the file or flag, the value seen and the remedy."""


class Interrupted(Exception):
    """The user or the cluster asked the run to stop; its state has been saved."""

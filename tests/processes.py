"""Commands as child processes, whatever started the test run."""

import signal


def interruptible() -> None:
    """For ``preexec_fn``: a test run started in the background ignores SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

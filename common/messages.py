"""What is said while a command runs: once, whatever the number of processes."""

import os
import sys


def is_first_process() -> bool:
    """Whether this process speaks, and writes what all processes of this machine share."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))) == 0


def warn(message: str) -> None:
    """One line on standard error, from the first process only."""
    if is_first_process():
        print(f"warning: {message}", file=sys.stderr)

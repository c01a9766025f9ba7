"""What is said while a command runs: once, whatever the number of processes; and which process speaks."""

import os
import sys


def is_first_process() -> bool:
    """Whether this process is the first of its machine: it writes what all processes of a machine share."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))) == 0


def is_main_process() -> bool:
    """Whether this process is the first of the whole run: it writes what there is only one of."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    return not getattr(rank_zero_only, "rank", 0)


def tell(line: str) -> None:
    """Print a line, once in a run of several processes."""
    if is_main_process():
        print(line)


def warn(message: str) -> None:
    """One line on standard error, once per machine."""
    if is_first_process():
        print(f"warning: {message}", file=sys.stderr)

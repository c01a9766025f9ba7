"""The original's name for ``train.py``. Its flags for several processes are read and left to ``--devices``."""

import sys

from common.messages import warn
from maskdistill.segmentation.train import main as train

SWITCHES = ("--multiprocessing-distributed",)
VALUED = ("--world-size", "--rank", "--dist-url", "--dist-backend", "--gpu")


def without_distribution(argv: list[str]) -> list[str]:
    """The arguments without those by which the original spread itself over processes."""
    kept, left_out = [], []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        name, equals, _ = token.partition("=")
        if name in SWITCHES:
            left_out.append(name)
        elif name in VALUED:
            left_out.append(name)
            if not equals and rest:
                rest.pop(0)
        else:
            kept.append(token)
    if left_out:
        warn(f"{', '.join(left_out)}: not needed; --devices N, --num_nodes N and --sync_batchnorm do this here")
    return kept


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return train(without_distribution(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    raise SystemExit(main())

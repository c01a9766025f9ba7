"""``python traced.py SCRIPT ARGUMENTS``: a command whose ``torch.compile`` makes no machine code.

The graphs of its networks are captured and differentiated, then run operator by operator: seconds rather than the
minutes that a C++ compiler takes, and what can fail in a network of ours fails here. Ends by saying ``graphs: N``.
"""

import functools
import os
import runpy
import sys

import torch
from torch._dynamo.utils import counters


def main() -> None:
    del sys.argv[0]
    sys.path[0] = os.path.dirname(sys.argv[0])
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        print("graphs:", counters["stats"]["unique_graphs"])


if __name__ == "__main__":
    main()

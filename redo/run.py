"""The whole of ReDO in one command: data -> train -> predict -> score -> redraw -> report.

    python redo/run.py --config redo/configs/embedded.yaml  # embedded shapes
    python redo/run.py --data_file NAME --base_dir DATA     # NAME_train.csv, NAME_val.csv, NAME_test.csv
    python redo/run.py --config redo/configs/flowers.yaml --dataroot DATA

Each step leaves its files in the run directory, so the same command with ``--resume`` goes on where it was stopped.
"""

import sys

from common import cli
from common.options import RunOptions, TrainerFlags
from redo.options import ALIASES, ChainOptions, DataOptions, ModelOptions, WatchOptions
from redo.train import with_recorded_options


def run_chain(
    chain: ChainOptions,
    model: ModelOptions,
    watch: WatchOptions,
    data: DataOptions,
    run: RunOptions,
    flags: TrainerFlags,
) -> int:
    """Train on the data, predict and score the test split, redraw it and write a report; without data, on shapes."""
    from redo.chain import run_all

    return run_all(chain, model, watch, data, run, flags)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (ChainOptions, ModelOptions, WatchOptions, DataOptions, RunOptions, TrainerFlags)
    arguments = with_recorded_options(list(sys.argv[1:] if argv is None else argv))
    shapes = {"dataset": "shapes"}
    return cli.command(run_chain, *classes, argv=arguments, aliases=ALIASES, prog="run.py", defaults=shapes)


if __name__ == "__main__":
    raise SystemExit(main())

"""The whole of AST-Seg in one command: images or video -> backgrounds -> objects -> masks -> scores -> report.

    python ast/run.py --config ast/configs/embedded.yaml                 # embedded data
    python ast/run.py street.mp4 --config ast/configs/traffic.yaml       # a video, a folder of images, a .csv split
    python ast/run.py --dataset clevrtex --data_file NAME --base_dir DATA --gpus 1

Each step leaves its files in the run directory and is left out when they stand already, so the same command with
``--resume`` goes on where it was stopped.
"""

import sys
from collections.abc import Sequence

from ast_seg.options import ChainOptions, ExportOptions
from ast_seg.presets import chain_recipe, taken
from common import cli
from common.options import RunOptions, TrainerFlags


def run_chain(chain: ChainOptions, export: ExportOptions, run: RunOptions, flags: TrainerFlags) -> int:
    """Train on the data, segment the test split, score it and write a report; without data, on an embedded clip."""
    from ast_seg.chain import run_all

    return run_all(chain, export, run, flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    classes = (ChainOptions, ExportOptions, RunOptions, TrainerFlags)

    def call() -> int:
        name = taken(arguments)
        defaults = chain_recipe(name) if name is not None else None
        return cli.command(run_chain, *classes, argv=arguments, prog="run.py", defaults=defaults)

    return cli.guarded(call)


if __name__ == "__main__":
    raise SystemExit(main())

"""Train ReDO: cut images into regions that can be redrawn, without any annotation.

python redo/train.py --dataset flowers --dataroot DATA --nfX 32 --useSelfAttG --useSelfAttD --clean --outf runs/flowers
python redo/train.py --data_file NAME --base_dir DATA --autoRestart .1 --out runs/redo
"""

import sys
from dataclasses import replace
from pathlib import Path

from common import cli
from common.options import RunOptions, TrainerFlags
from redo.options import ALIASES, DataOptions, ModelOptions, WatchOptions


def train(model: ModelOptions, watch: WatchOptions, data: DataOptions, run: RunOptions, flags: TrainerFlags) -> int:
    """Train networks that cut images into regions and redraw them; annotations serve scores only."""
    from redo.training import train as run_training

    run_training(model, watch, data, replace(run, out=run.out or Path("runs/redo")), flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (ModelOptions, WatchOptions, DataOptions, RunOptions, TrainerFlags)
    arguments = with_recorded_options(list(sys.argv[1:] if argv is None else argv))
    return cli.command(train, *classes, argv=arguments, aliases=ALIASES, prog="train.py")


def with_recorded_options(argv: list[str]) -> list[str]:
    """A resumed run has the options that it was started with, as in the original; those given again count more."""
    out = "runs/redo"
    for name in ("--outf", "--out"):
        for position, word in enumerate(argv):
            if word == name and position + 1 < len(argv):
                out = argv[position + 1]
            elif word.startswith(f"{name}="):
                out = word.partition("=")[2]
    file = Path(out) / "config.yaml"
    if "--resume" in argv and "--config" not in argv and file.is_file():
        return ["--config", str(file), *argv]
    return argv


if __name__ == "__main__":
    raise SystemExit(main())

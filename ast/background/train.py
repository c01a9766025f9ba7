"""Step 1: learn the background of a set of images, without any annotation.

python ast/background/train.py --data_file DataSplit/NAME --base_dir DATA --out runs/background --gpus 1
"""

from dataclasses import replace
from pathlib import Path

from ast_seg.options import BackgroundOptions, FrameOptions
from ast_seg.presets import with_preset
from common import cli
from common.options import RunOptions, TrainerFlags


def train(options: BackgroundOptions, data: FrameOptions, run: RunOptions, flags: TrainerFlags) -> int:
    """Train the background networks of AE-NE on raw frames; label maps are only for scores."""
    from ast_seg.background_training import train_background

    train_background(options, data, replace(run, out=run.out or Path("runs/ast/background")), flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return with_preset(
        "background", train, BackgroundOptions, FrameOptions, RunOptions, TrainerFlags, argv=argv, prog="train.py"
    )


if __name__ == "__main__":
    raise SystemExit(main())

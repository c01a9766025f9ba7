"""Step 3: learn the objects that a set of images shows before its backgrounds, without any annotation.

python ast/MF_train.py --dataset clevrtex --data_file runs/bg/background_dataset/background \
    --base_dir runs/bg/background_dataset --background_model runs/bg --out runs/ast --gpus 1
"""

from dataclasses import replace
from pathlib import Path

from ast_seg.options import LossOptions, ModelOptions, TripleOptions
from ast_seg.presets import with_preset
from common import cli
from common.options import RunOptions, TrainerFlags


def train(model: ModelOptions, loss: LossOptions, data: TripleOptions, run: RunOptions, flags: TrainerFlags) -> int:
    """Train the slots of AST-Seg on images and their backgrounds; label maps are only for scores."""
    from ast_seg.foreground_training import train_foreground

    train_foreground(model, loss, data, replace(run, out=run.out or Path("runs/ast/foreground")), flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (ModelOptions, LossOptions, TripleOptions, RunOptions, TrainerFlags)
    return with_preset("foreground", train, *classes, argv=argv, prog="MF_train.py")


if __name__ == "__main__":
    raise SystemExit(main())

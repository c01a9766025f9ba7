"""Train stflow's motion segmentation network on optical flow, without any annotation.

python stflow/model_train.py --data_file DataSplit/NAME --base_dir DATA --path_save_model runs/stflow --gpus 1
"""

from dataclasses import replace
from pathlib import Path

from common import cli
from common.options import RunOptions, TrainerFlags
from stflow.options import ALIASES, DataOptions, ModelOptions


def train(model: ModelOptions, data: DataOptions, run: RunOptions, flags: TrainerFlags) -> int:
    """Train motion segmentation on windows of consecutive optical flow fields; ground truth is only for scores."""
    from stflow.training import train as run_training

    run_training(model, data, replace(run, out=run.out or Path("runs/stflow")), flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(
        train, ModelOptions, DataOptions, RunOptions, TrainerFlags, argv=argv, aliases=ALIASES, prog="model_train.py"
    )


if __name__ == "__main__":
    raise SystemExit(main())

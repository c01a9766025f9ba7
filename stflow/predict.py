"""Segment a split, a video or a folder of pictures with a trained motion segmenter.

python stflow/predict.py --model_dir runs/stflow --data_file DataSplit/NAME_val.csv --base_dir DATA
python stflow/predict.py clip.mp4 --model_dir runs/stflow
"""

from common import cli
from common.errors import InputError
from common.options import TrainerFlags
from stflow.options import PredictOptions

ALIASES = {"-md": "--model_dir", "-b": "--base_dir", "-cs": "--cuts_size", "--cut_size": "--cuts_size"}


def predict(options: PredictOptions, flags: TrainerFlags) -> int:
    """Predict motion segments and foreground masks for every frame of a split, a video or a folder."""
    if (options.input is None) == (options.data_file is None):
        raise InputError("give either a video or folder, or --data_file with a split")
    from common.messages import tell
    from stflow.apply import apply

    tell(f"predictions: {apply(options, flags)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(predict, PredictOptions, TrainerFlags, argv=argv, aliases=ALIASES, prog="predict.py")


if __name__ == "__main__":
    raise SystemExit(main())

"""Step 2: backgrounds, predicted errors, masks and aligned copies of every image.

python ast/background/generate_background_dataset.py --saved_model_path runs/background --data_file NAME --base_dir DATA
"""

from ast_seg.options import BackgroundDatasetOptions, FrameOptions
from common import cli
from common.options import TrainerFlags


def generate(options: BackgroundDatasetOptions, data: FrameOptions, flags: TrainerFlags) -> int:
    """Run the background networks over all images, in order, and write the five folders of the background data set."""
    from ast_seg.background_dataset import generate as write_all
    from common.prediction import prediction_flags

    write_all(options, data, prediction_flags(flags))
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (BackgroundDatasetOptions, FrameOptions, TrainerFlags)
    return cli.command(generate, *classes, argv=argv, prog="generate_background_dataset.py")


if __name__ == "__main__":
    raise SystemExit(main())

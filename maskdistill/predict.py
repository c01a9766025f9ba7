"""Segment a picture, a folder, a video or a split: label map, instances, overlay.

python maskdistill/predict.py photo.jpg --model_dir runs/maskdistill --out predictions
python maskdistill/predict.py pictures/ --model_dir model.pth.tar --crf_postprocess
"""

from common import cli
from common.options import TrainerFlags
from maskdistill.predict_options import PredictOptions

ALIASES = {"--crf-postprocess": "--crf_postprocess", "--model_path": "--model_dir"}


def predict(options: PredictOptions, flags: TrainerFlags) -> int:
    """Write label maps, instance maps and overlays of the input."""
    from common.messages import tell
    from maskdistill.single import predict as run

    tell(f"predictions: {run(options, flags)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(predict, PredictOptions, TrainerFlags, argv=argv, aliases=ALIASES, prog="predict.py")


if __name__ == "__main__":
    raise SystemExit(main())

"""Cut the object out of a picture, a folder, a video or a split with a trained mask network.

python redo/predict.py photo.jpg --model_dir runs/redo
python redo/predict.py --data_file DataSplit/NAME_test.csv --base_dir DATA --model_dir flowers_nets_state.tar.gz
"""

from common import cli
from common.options import TrainerFlags
from redo.options import PredictOptions


def predict(options: PredictOptions, flags: TrainerFlags) -> int:
    """Predict an object mask for every image of a picture, a folder, a video or a split."""
    from common.messages import tell
    from redo.prediction import predict as run

    tell(f"predictions: {run(options, flags)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(predict, PredictOptions, TrainerFlags, argv=argv, prog="predict.py")


if __name__ == "__main__":
    raise SystemExit(main())

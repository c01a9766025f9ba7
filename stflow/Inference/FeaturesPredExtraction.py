"""Predict every window of data splits, beside the weights: ``<model_dir>/<flow path>_proba.npy``, and features.

    python stflow/Inference/FeaturesPredExtraction.py --model_dir runs/stflow --base_dir DATA --data_file DataSplit/NAME

The next step is ``LinkPredictions.py``. A run that was stopped goes on where it was; several processes share the work
(``--accelerator cpu --devices 2 --strategy ddp``, or ``--gpus 2``).
"""

from common import cli
from common.options import TrainerFlags
from stflow.options import INFERENCE_ALIASES, ExtractionOptions


def run(options: ExtractionOptions, flags: TrainerFlags) -> int:
    """Write the probabilities (L, T, rows, columns) of every window of one or more splits as .npy files."""
    from stflow.extraction import extract

    extract(options, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (ExtractionOptions, TrainerFlags)
    return cli.command(run, *classes, argv=argv, aliases=INFERENCE_ALIASES, prog="FeaturesPredExtraction.py")


if __name__ == "__main__":
    raise SystemExit(main())

"""Linked labels as indexed PNG images of the ground truth's size, every segment a proposal: for DAVIS-2017.

    python stflow/Inference/ProbaMultiMask.py --model_dir runs/stflow --base_dir DATA --data_file DataSplit/NAME_val

Needs the files of ``LinkPredictions.py``. The images go to ``cs<cuts_size>/<sequence>/`` beside the folder that holds
the sequences' flows; the official code reads them there, and the split ``<NAME_val>_cs<cuts_size>.csv`` in the model
folder names them for ``common/evaluate.py --protocol davis2017-motion``.
"""

from common import cli
from stflow.options import INFERENCE_ALIASES, SequenceOptions


def run(options: SequenceOptions) -> int:
    """Write the segments of every frame as a palette PNG, label + 1; the last frame repeats the labels before it."""
    from stflow.pipeline import write_label_images

    write_label_images(options)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, SequenceOptions, argv=argv, aliases=INFERENCE_ALIASES, prog="ProbaMultiMask.py")


if __name__ == "__main__":
    raise SystemExit(main())

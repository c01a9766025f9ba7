"""Step 4: the masks of every image by a trained model, with latents, boxes, overlays and the published sample grid.

python ast/MF_generate_image_samples.py street.mp4 --object_model_checkpoint_path runs/ast --results_dir_path masks
"""

from ast_seg.options import ApplyOptions, ExportOptions
from common import cli
from common.options import TrainerFlags


def generate(options: ApplyOptions, export: ExportOptions, flags: TrainerFlags) -> int:
    """Segment every image of a split, folder or video: a label map each, and what else is asked for."""
    from ast_seg.segmentation import segment
    from common.prediction import prediction_flags

    segment(options, export, prediction_flags(flags))
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (ApplyOptions, ExportOptions, TrainerFlags)
    return cli.command(generate, *classes, argv=argv, prog="MF_generate_image_samples.py")


if __name__ == "__main__":
    raise SystemExit(main())

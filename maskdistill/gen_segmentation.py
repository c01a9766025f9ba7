r"""Stage D of MaskDistill: paint the confident detections of each image into a label map.

python maskdistill/gen_segmentation.py --input_file runs/mask_rcnn/mask_rcnn_trainaug.json \
    --gt_file runs/mask_rcnn/gt_trainaug.json --threshold 0.9 --save_dir label_maps --output_file kept.json
"""

from common import cli
from maskdistill.options import LabelMapOptions


def gen_segmentation(options: LabelMapOptions) -> int:
    """Make one label map per image from the detections of Mask R-CNN: 0 background, 1 + category, 255 uncertain."""
    from maskdistill.stages import paint_label_maps

    paint_label_maps(options)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(gen_segmentation, LabelMapOptions, argv=argv, prog="gen_segmentation.py")


if __name__ == "__main__":
    raise SystemExit(main())

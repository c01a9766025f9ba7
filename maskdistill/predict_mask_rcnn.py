r"""Stage C of MaskDistill, prediction: detections of a trained Mask R-CNN, of either backend.

python maskdistill/predict_mask_rcnn.py --model_dir runs/mask_rcnn --images clustered.json --image_dir DATA \
    --set trainaug
"""

from common import cli
from common.options import TrainerFlags
from maskdistill.options import DetectOptions


def predict(options: DetectOptions, flags: TrainerFlags) -> int:
    """Detect objects on the images of a COCO file; what stands of an interrupted run is kept."""
    from maskdistill.stages import detect

    detect(options, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(predict, DetectOptions, TrainerFlags, argv=argv, prog="predict_mask_rcnn.py")


if __name__ == "__main__":
    raise SystemExit(main())

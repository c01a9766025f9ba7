r"""Stage C of MaskDistill: train Mask R-CNN on the clustered masks.

python maskdistill/train_mask_rcnn.py --config maskdistill/configs/maskrcnn_voc.yaml --input_file clustered.json \
    --image_dir DATA/VOCdevkit/VOC2012 --init dino_resnet50_pretrain.pth --out runs/mask_rcnn --gpus 4
"""

from common import cli
from common.options import RunOptions, TrainerFlags
from maskdistill.options import DetectionDataOptions, DetectorOptions, SolverOptions


def train(
    model: DetectorOptions, solver: SolverOptions, data: DetectionDataOptions, run: RunOptions, flags: TrainerFlags
) -> int:
    """Train Mask R-CNN on the pseudo-labels of stage B, with torchvision or detectron2."""
    from maskdistill.stages import train_detector

    train_detector(model, solver, data, run, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (DetectorOptions, SolverOptions, DetectionDataOptions, RunOptions, TrainerFlags)
    return cli.command(train, *classes, argv=argv, prog="train_mask_rcnn.py")


if __name__ == "__main__":
    raise SystemExit(main())

"""Average precision of instance masks against COCO ground truth.

python maskdistill/eval_instances.py --input_file mask_rcnn_instance.json --gt_file instance_gt.json
"""

from common import cli
from maskdistill.options import EvaluateInstancesOptions


def eval_instances(options: EvaluateInstancesOptions) -> int:
    """Score detections by the COCO protocol: all of them (multi), or the most confident of each image (single)."""
    from maskdistill.instance_scores import score

    score(options)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(eval_instances, EvaluateInstancesOptions, argv=argv, prog="eval_instances.py")


if __name__ == "__main__":
    raise SystemExit(main())

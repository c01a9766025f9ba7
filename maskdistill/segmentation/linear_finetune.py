"""Linear probe: a 1x1 classifier on the frozen features of a trained DeepLab-v3, trained with labels, scored on val.

python maskdistill/segmentation/linear_finetune.py --data_file NAME --base_dir DATA --pretrained runs/deeplab
python maskdistill/segmentation/linear_finetune.py --dataset_root VOC --model_path best_model.pth.tar --crf-postprocess
"""

import sys
from dataclasses import replace
from pathlib import Path

from common import cli
from common.options import RunOptions, TrainerFlags
from maskdistill.segmentation.experiment import original_defaults
from maskdistill.segmentation.options import (
    ALIASES,
    PROBE_DEFAULTS,
    LabelOptions,
    OriginalFiles,
    SegmentationDataOptions,
    SegmentationOptions,
)

OPTIONS = (OriginalFiles, SegmentationOptions, SegmentationDataOptions, LabelOptions, RunOptions, TrainerFlags)


def probe(
    files: OriginalFiles,
    model: SegmentationOptions,
    data: SegmentationDataOptions,
    labels: LabelOptions,
    run: RunOptions,
    flags: TrainerFlags,
) -> int:
    """Train a linear classifier on frozen features, then predict and score the validation images."""
    from maskdistill.segmentation.module import LinearProbeModule
    from maskdistill.segmentation.training import train_and_label

    run = replace(run, out=run.out or Path("runs/linear"))
    train_and_label(LinearProbeModule, model, data, labels, run, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def parse_and_run() -> int:
        defaults = {**PROBE_DEFAULTS, **original_defaults(arguments, OPTIONS)}
        return cli.command(
            probe, *OPTIONS, argv=arguments, aliases=ALIASES, prog="linear_finetune.py", defaults=defaults
        )

    return cli.guarded(parse_and_run)


if __name__ == "__main__":
    raise SystemExit(main())

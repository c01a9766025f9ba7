r"""Stages E and F: train a semantic network on label maps, predict with or without a dense CRF, score.

python maskdistill/segmentation/train.py --data_file NAME --base_dir DATA --distill_dir runs/D/label_maps.csv \
    --model_kwargs.pretraining_path moco.pth.tar --out runs/deeplab
python maskdistill/segmentation/train.py --config_env configs/env.yml --config_exp configs/multi_obj/deeplab.yml
python maskdistill/segmentation/train.py ... --resume --crf-postprocess --crf-train      # label maps for the next round
"""

import sys
from dataclasses import replace
from pathlib import Path

from common import cli
from common.options import RunOptions, TrainerFlags
from maskdistill.segmentation.experiment import original_defaults
from maskdistill.segmentation.options import (
    ALIASES,
    LabelOptions,
    OriginalFiles,
    SegmentationDataOptions,
    SegmentationOptions,
)

OPTIONS = (OriginalFiles, SegmentationOptions, SegmentationDataOptions, LabelOptions, RunOptions, TrainerFlags)


def train(
    files: OriginalFiles,
    model: SegmentationOptions,
    data: SegmentationDataOptions,
    labels: LabelOptions,
    run: RunOptions,
    flags: TrainerFlags,
) -> int:
    """Train DeepLab-v3 or an FCN on label maps, then predict and score the validation images."""
    from maskdistill.segmentation.module import SegmentationModule
    from maskdistill.segmentation.training import train_and_label

    run = replace(run, out=run.out or Path("runs/deeplab"))
    train_and_label(SegmentationModule, model, data, labels, run, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def parse_and_run() -> int:
        defaults = original_defaults(arguments, OPTIONS)
        return cli.command(train, *OPTIONS, argv=arguments, aliases=ALIASES, prog="train.py", defaults=defaults)

    return cli.guarded(parse_and_run)


if __name__ == "__main__":
    raise SystemExit(main())

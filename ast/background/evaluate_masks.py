"""Score the masks of step 2 as CDnet does, beside subtractors that need no training.

python ast/background/evaluate_masks.py runs/background/background_dataset/background_train.csv --baselines
"""

from dataclasses import dataclass, field
from pathlib import Path

from ast_seg.options import Cleaning
from common import cli
from common.files import MaskEncoding


@dataclass(frozen=True, kw_only=True)
class MaskScoreOptions:
    """What is scored."""

    data_file: Path = field(metadata={"positional": True})
    """Split that generate_background_dataset.py wrote."""
    out: Path | None = None
    """File of the scores; default: scores.json beside the split."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground; cdnet: 255 foreground, 170 and 85 void, 50 and 0 background."""
    baselines: bool = False
    """Also score a median image, OpenCV's MOG2 and KNN on the same frames, at their working size, raw and cleaned."""
    cleaning: Cleaning = "median"
    """How the masks of the baselines are cleaned."""


def evaluate(options: MaskScoreOptions) -> int:
    """Score background masks: F-measure, precision and recall of all pixels together."""
    from ast_seg.background_scores import baselines, score_masks
    from common.evaluate import score_lines
    from common.metrics.protocol import write_scores
    from common.splits import read_split

    split = read_split(options.data_file, base_dir=options.data_file.parent)
    scores = score_masks(split, options.mask_encoding)
    if options.baselines:
        scores += baselines(split, options.mask_encoding, options.cleaning)
    write_scores(options.out or options.data_file.parent / "scores.json", scores)
    print("\n".join(score_lines(scores)))
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(evaluate, MaskScoreOptions, argv=argv, prog="evaluate_masks.py")


if __name__ == "__main__":
    raise SystemExit(main())

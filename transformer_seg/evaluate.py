"""Score the segmentations of a prediction split: classes, segments, or the region benchmark of BSDS500.

    python transformer_seg/evaluate.py runs/segmenter/predictions/NAME_val.csv --base_dir DATA --out runs/scores
    python transformer_seg/evaluate.py runs/wnet/predictions/bsds_val.csv --base_dir BSDS500 --out runs/scores

Where the split has ``GtSegmentation`` (several people's segmentations), covering, probabilistic Rand index and
variation of information are computed; where it has ``GtSemantic``, the pooled class scores of ``common/evaluate.py``,
or with ``--clusters`` the mIoU after a matching per picture.
"""

from dataclasses import dataclass, replace

from common import cli
from common.errors import InputError
from common.evaluate import EvaluateOptions


@dataclass(frozen=True, kw_only=True)
class SegmentScoringOptions(EvaluateOptions):
    """Scoring a prediction split."""

    clusters: bool = False
    """The labels are segments without classes (WNet): match them with the classes in every picture."""


def evaluate(options: SegmentScoringOptions) -> int:
    """Score a prediction split: scores.json, each number with its protocol."""
    from common.evaluate import evaluate as evaluate_classes
    from common.evaluate import score_lines
    from common.metrics.protocol import write_scores
    from common.splits import read_split
    from transformer_seg.wnet.scoring import bsds_scores, has_regions, picture_scores

    split = read_split(options.data_file, options.step, options.base_dir)
    scores = bsds_scores(split, options.crf, options.notes) if has_regions(split) else []
    if options.clusters:
        scores += picture_scores(split, options.crf, options.notes)
    elif "GtSemantic" in split.columns:
        scores += evaluate_classes(split, replace(options, task="semantic")).scores
    if not scores:
        raise InputError(f"{split.file}: no GtSegmentation or GtSemantic to score against")
    write_scores(options.out / "scores.json", scores)
    print("\n".join(score_lines(scores)))
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(evaluate, SegmentScoringOptions, argv=argv, prog="evaluate.py")


if __name__ == "__main__":
    raise SystemExit(main())

"""Score a trained mask network on an annotated split, by the published protocol and by an honest one.

python redo/score.py DataSplit/NAME_test.csv --base_dir DATA --model_dir runs/redo
"""

from common import cli
from redo.options import ScoreOptions


def score(options: ScoreOptions) -> int:
    """Score masks against annotations: accuracy and IoU, per image as published and for the data set as a whole."""
    from common.evaluate import score_lines
    from common.files import check_writable
    from common.metrics.protocol import write_scores
    from common.splits import read_split
    from common.tables import write_table
    from redo.options import DataOptions
    from redo.restore import restore
    from redo.scoring import device_of, score_split

    check_writable(options.out)
    split = read_split(options.data_file, base_dir=options.base_dir)
    found = score_split(
        restore(options.model_dir),
        split,
        DataOptions(mask_encoding=options.mask_encoding, cache_dir=options.cache_dir),
        threshold=options.threshold,
        legacy_empty_iou=options.legacy_empty_iou,
        device=device_of(options.gpus),
        batch_size=options.batch_size,
    )
    write_scores(options.out / "scores.json", found.scores)
    write_table(found.per_image, options.out / "per_image.csv")
    print("\n".join(score_lines(found.scores)))
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(score, ScoreOptions, argv=argv, prog="score.py")


if __name__ == "__main__":
    raise SystemExit(main())

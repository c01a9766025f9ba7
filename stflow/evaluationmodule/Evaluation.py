"""Score masks frame by frame against the ground truth, in the original's files.

    python stflow/evaluationmodule/Evaluation.py --data_file DataSplit/NAME_val -dbd DATA -dbp runs -mi stflow

The result is the mean over frames, which is not the mean over sequences of DAVIS-2016: for that, and for J and F, give
the split ``predictions.csv`` that this command writes to ``common/evaluate.py --protocol davis2016``.
"""

from common import cli
from stflow.options import EVALUATION_ALIASES, FrameEvaluationOptions


def run(options: FrameEvaluationOptions) -> int:
    """Score predictions (layers, rows, columns) in .npy files; writes eval_*.csv, eval_*.json, masks and figures."""
    from stflow.frame_evaluation import evaluate_frames

    evaluate_frames(options)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, FrameEvaluationOptions, argv=argv, aliases=EVALUATION_ALIASES, prog="Evaluation.py")


if __name__ == "__main__":
    raise SystemExit(main())

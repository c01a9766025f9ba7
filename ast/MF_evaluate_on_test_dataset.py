"""Score a trained model as the paper does: reconstruction error, mIoU, ARI, ARI-FG and covering, means over images.

python ast/MF_evaluate_on_test_dataset.py DATA_test.csv --object_model_checkpoint_path runs/ast
"""

from ast_seg.options import ApplyOptions, EvaluationOptions
from common import cli


def evaluate(options: ApplyOptions, evaluation: EvaluationOptions) -> int:
    """Score a trained model on images with label maps; writes scores.json and per_frame.csv and prints the means."""
    from ast_seg.evaluation import evaluate_model
    from common.evaluate import score_lines

    path = options.object_model_checkpoint_path
    out = options.results_dir_path or (path if path.is_dir() else path.parent) / "evaluation"
    scores, _ = evaluate_model(options, evaluation, out)
    print("\n".join(score_lines(scores)))
    print(f"tables in {out}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(evaluate, ApplyOptions, EvaluationOptions, argv=argv, prog="MF_evaluate_on_test_dataset.py")


if __name__ == "__main__":
    raise SystemExit(main())

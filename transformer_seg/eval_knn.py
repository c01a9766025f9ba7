"""k-NN classification by a DINO network's features.

python transformer_seg/eval_knn.py --data_path IMAGENET --pretrained_weights dino_deitsmall16_pretrain.pth
python transformer_seg/eval_knn.py --data_file DataSplit/NAME --base_dir DATA --pretrained_weights runs/dino
"""

from common import cli
from common.options import TrainerFlags
from transformer_seg.dino.options import COMMAND_ALIASES, KnnOptions


def eval_knn(options: KnnOptions, flags: TrainerFlags) -> int:
    """Classify pictures by their nearest neighbours among a DINO network's features."""
    from transformer_seg.dino.classification import run_knn

    run_knn(options, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(eval_knn, KnnOptions, TrainerFlags, argv=argv, aliases=COMMAND_ALIASES, prog="eval_knn.py")


if __name__ == "__main__":
    raise SystemExit(main())

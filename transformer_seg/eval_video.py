"""Carry the labels of a clip's first frame through the clip by a DINO network's features, and score them.

python transformer_seg/eval_video.py DAVIS --pretrained_weights dino_deitsmall8_pretrain.pth --out runs/davis
python transformer_seg/eval_video.py --data_file DataSplit/NAME_val.csv --base_dir DATA --pretrained_weights runs/dino
"""

from common import cli
from transformer_seg.dino.options import COMMAND_ALIASES, DavisOptions


def eval_video(options: DavisOptions) -> int:
    """Carry object labels through videos as in DAVIS-2017, write indexed PNGs, and give J and F."""
    from common.training import plain_failures
    from transformer_seg.dino.davis import run_davis

    with plain_failures():
        print(f"labels: {run_davis(options)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(eval_video, DavisOptions, argv=argv, aliases=COMMAND_ALIASES, prog="eval_video.py")


if __name__ == "__main__":
    raise SystemExit(main())

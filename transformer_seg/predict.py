"""Segment a picture, a folder of pictures, a video or a split with a trained WNet or Segmenter.

python transformer_seg/predict.py photo.jpg --model_dir runs/segmenter
python transformer_seg/predict.py clip.mp4 --model_dir seg_tiny_mask/checkpoint.pth --out runs/clip
python transformer_seg/predict.py --data_file DataSplit/NAME_val.csv --base_dir DATA --model_dir runs/wnet
"""

from common import cli
from common.options import TrainerFlags
from transformer_seg.options import ALIASES, PredictOptions
from transformer_seg.segmenter.options import WindowOptions
from transformer_seg.wnet.options import ALIASES as WNET_ALIASES
from transformer_seg.wnet.options import RefineOptions


def predict(options: PredictOptions, wnet: RefineOptions, segmenter: WindowOptions, flags: TrainerFlags) -> int:
    """Segment pictures with the system that a checkpoint holds: label maps, overlays, a legend, a prediction split."""
    from common.messages import tell
    from transformer_seg.restore import checkpoint_file, system_of

    file = checkpoint_file(options.model_dir)
    if system_of(file) == "wnet":
        from transformer_seg.wnet.apply import apply_wnet
        from transformer_seg.wnet.restore import restore_wnet

        written = apply_wnet(restore_wnet(file), file, options, wnet, flags)
    else:
        from transformer_seg.segmenter.apply import apply_segmenter
        from transformer_seg.segmenter.restore import restore_segmenter

        written = apply_segmenter(restore_segmenter(file), file, options, segmenter, flags)
    tell(f"predictions: {written}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    aliases = {**ALIASES, **WNET_ALIASES, "-md": "--model_dir"}
    classes = (PredictOptions, RefineOptions, WindowOptions, TrainerFlags)
    return cli.command(predict, *classes, argv=argv, aliases=aliases, prog="predict.py")


if __name__ == "__main__":
    raise SystemExit(main())

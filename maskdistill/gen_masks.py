r"""Stage A of MaskDistill: one object mask per image, without labels.

python maskdistill/gen_masks.py --dataset VOCClass --year 2012 --set trainval --dataset_root DATA \
    --weights dino_deitsmall16_pretrain.pth --pred_json_path masks.json
python maskdistill/gen_masks.py --dataset folder --dataset_root PICTURES --weights contrast --pred_json_path masks.json
"""

from common import cli
from common.options import TrainerFlags
from maskdistill.options import MASK_ALIASES, MaskOptions


def gen_masks(options: MaskOptions, flags: TrainerFlags) -> int:
    """Distil one object mask per image from a self-supervised vision transformer into a COCO file.

    What stands of an interrupted run is kept: the same command goes on.
    """
    from maskdistill.mask_stage import make_masks

    make_masks(options, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(gen_masks, MaskOptions, TrainerFlags, argv=argv, aliases=MASK_ALIASES, prog="gen_masks.py")


if __name__ == "__main__":
    raise SystemExit(main())

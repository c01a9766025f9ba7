"""Make CSV data splits: ``python common/make_split.py LAYOUT INPUT --out NAME``; ``--help`` lists the layouts."""

from collections.abc import Callable, Sequence

from common import cli
from common.makers import (
    ade20k,
    bsds,
    cdnet,
    clevr,
    coco,
    cub,
    davis,
    fbms,
    flowers,
    folder,
    lfw,
    objectsroom,
    sbd,
    segtrack,
    shapestacks,
    two_digits,
    video,
    voc,
    weizmann,
)

COMMANDS: dict[str, tuple[Callable[..., int], type]] = {
    "folder": (folder.make, folder.Options),
    "video": (video.make, video.Options),
    "davis": (davis.make, davis.Options),
    "fbms": (fbms.make, fbms.Options),
    "segtrack": (segtrack.make, segtrack.Options),
    "flowers": (flowers.make, flowers.Options),
    "cub": (cub.make, cub.Options),
    "lfw": (lfw.make, lfw.Options),
    "weizmann": (weizmann.make, weizmann.Options),
    "two_digits": (two_digits.make, two_digits.Options),
    "voc": (voc.make, voc.Options),
    "sbd": (sbd.make, sbd.Options),
    "ade20k": (ade20k.make, ade20k.Options),
    "bsds": (bsds.make, bsds.Options),
    "cdnet": (cdnet.make, cdnet.Options),
    "objectsroom": (objectsroom.make, objectsroom.Options),
    "coco": (coco.make, coco.Options),
    "clevr": (clevr.make, clevr.Options),
    "clevrtex": (clevr.make_tex, clevr.TexOptions),
    "shapestacks": (shapestacks.make, shapestacks.Options),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.subcommands(COMMANDS, argv, prog="make_split.py", description="Make CSV data splits.")


if __name__ == "__main__":
    raise SystemExit(main())

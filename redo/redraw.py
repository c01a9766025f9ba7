"""Redraw the regions of images with trained networks: a sheet of pictures.

python redo/redraw.py photos/ --model_dir runs/redo --out redrawn.png
python redo/redraw.py photos/ --model_dir runs/redo --region 0 --interpolate --out way.png
"""

from common import cli
from redo.options import RedrawOptions


def redraw(options: RedrawOptions) -> int:
    """Draw regions of images anew from several noises, or on the way from one noise to another."""
    from redo.redrawing import redraw as run

    print(f"picture: {run(options)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(redraw, RedrawOptions, argv=argv, prog="redraw.py")


if __name__ == "__main__":
    raise SystemExit(main())

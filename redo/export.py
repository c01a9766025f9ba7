"""Export trained networks: the mask network as ONNX, or all networks in the original's layout.

python redo/export.py --model_dir runs/redo --out redo.onnx
python redo/export.py --model_dir runs/redo --out redo_nets_state.pth
"""

from common import cli
from redo.options import ExportOptions


def export(options: ExportOptions) -> int:
    """Write the mask network as ONNX (images in [-1, 1] to masks), or all networks as the original keeps them."""
    from redo.exporting import run

    print(f"written: {run(options)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(export, ExportOptions, argv=argv, prog="export.py")


if __name__ == "__main__":
    raise SystemExit(main())

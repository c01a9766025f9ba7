"""Export a trained semantic network to ONNX, or to the original's file layout.

python maskdistill/export_onnx.py runs/maskdistill --out deeplab.onnx
python maskdistill/export_onnx.py runs/maskdistill --out model.pth.tar
"""

from common import cli
from maskdistill.predict_options import ExportOptions


def export(options: ExportOptions) -> int:
    """Write the network as ONNX, checked with onnxruntime, or as a file that the original code reads."""
    from maskdistill.onnx_export import export as run

    print(run(options))
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(export, ExportOptions, argv=argv, prog="export_onnx.py")


if __name__ == "__main__":
    raise SystemExit(main())

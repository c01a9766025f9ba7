"""Ground truth for instances: the object maps of PASCAL VOC, or of data laid out like it, as a COCO file.

python maskdistill/convert_voc.py --dataset_root DATA --out_file instance_gt.json
"""

from common import cli
from maskdistill.options import ConvertVocOptions


def convert_voc(options: ConvertVocOptions) -> int:
    """Convert VOC's SegmentationObject and SegmentationClass maps into COCO annotations."""
    from maskdistill.voc_instances import convert

    convert(options)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(convert_voc, ConvertVocOptions, argv=argv, prog="convert_voc.py")


if __name__ == "__main__":
    raise SystemExit(main())

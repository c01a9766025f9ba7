"""A COCO file of 20 000 images written and read: the text as a whole, beside entry by entry. Look at the memory."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Benchmark

from maskdistill import rle
from maskdistill.coco_files import CocoFile, read_coco, write_coco


def build(tiny: bool) -> Benchmark:
    """One mask per image, run-length encoded."""
    count = 50 if tiny else 20_000
    rng = np.random.default_rng(0)
    codes = []
    for _ in range(20):
        mask = np.zeros((375, 500), dtype=np.uint8)
        mask[50:300, 60:400] = rng.random((250, 340)) < 0.995
        codes.append(rle.encode(mask))
    folder = Path(tempfile.mkdtemp(prefix="maskdistill_json_"))

    def check(textbook: CocoFile, ours: CocoFile) -> None:
        assert textbook == ours

    return Benchmark(
        f"COCO file of {count} images written and read",
        lambda: textbook_round_trip(content(count, codes), folder / "textbook.json"),
        lambda: read_coco(write_coco(folder / "ours.json", *content(count, codes))),
        check,
    )


def content(count: int, codes: list[dict[str, Any]]) -> CocoFile:
    """Images, one entry each, one category."""
    images = [{"file_name": f"{k:012d}.jpg", "height": 375, "width": 500, "id": k} for k in range(count)]
    entries = [
        {"id": k, "image_id": k, "category_id": 0, "bbox": [60.0, 50.0, 340.0, 250.0], "segmentation": codes[k % 20]}
        for k in range(count)
    ]
    return CocoFile(images, entries, [{"id": 0, "name": "", "supercategory": ""}])


def textbook_round_trip(coco: CocoFile, path: Path) -> CocoFile:
    """One string for the file, and again one when it is read."""
    path.write_text(json.dumps(coco._asdict()))
    return CocoFile(**json.loads(path.read_text()))

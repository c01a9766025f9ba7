"""redo from photos to label maps of regions, at the photos' own size."""

from pathlib import Path

from measuring import Benchmark
from prediction import System, photos, prediction

from common.prediction import ItemWriter
from redo.model.networks import mask_network
from redo.options import NetworkOptions
from redo.prediction import MaskPredictor, RegionWriter, WholeImages, region_files


def build(tiny: bool) -> Benchmark:
    """Photos of 500 x 667, covered by squares of 128, the published widths."""
    count, size, side = (2, (60, 80), 32) if tiny else (16, (500, 667), 128)
    split = photos(count, *size)
    options = NetworkOptions(sizex=side, nf=4) if tiny else NetworkOptions(sizex=side)

    def results(out: Path) -> tuple[ItemWriter, list[Path]]:
        files = region_files(split, out)
        return RegionWriter(files, 0.5), files

    system = System(
        MaskPredictor(mask_network(options)),
        lambda: WholeImages(split, side, options.nx),
        results,
        collate=lambda items: items[0],
    )
    return prediction(f"{count} photos {size[0]} x {size[1]} to regions, squares of {side}", system)

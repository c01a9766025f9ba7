"""WNet from photos to label maps, with the dense CRF, at the photos' own size."""

from pathlib import Path

from measuring import Benchmark
from prediction import System, photos, prediction

from common.prediction import ItemWriter
from transformer_seg.images import as_lists
from transformer_seg.prediction import MapWriter, OutputFiles, PredictionImages
from transformer_seg.wnet.apply import Finish, network_input
from transformer_seg.wnet.module import WnetModule
from transformer_seg.wnet.options import RefineOptions, WnetOptions


def build(tiny: bool) -> Benchmark:
    """Photos of 321 x 481 at 224 x 224, sixteen segments, ten CRF iterations."""
    count, size, side = (2, (48, 64), 32) if tiny else (4, (321, 481), 224)
    split = photos(count, *size)
    options = WnetOptions(num_classes=4, width=4) if tiny else WnetOptions()

    def results(out: Path) -> tuple[ItemWriter, list[Path]]:
        files = OutputFiles(split, out)
        return MapWriter(files, Finish(files, RefineOptions())), [files.of(row, "Pred") for row in range(count)]

    system = System(
        WnetModule(options, image_size=side),
        lambda: PredictionImages(split, lambda picture: network_input(picture, side)),
        results,
        collate=as_lists,
    )
    step = f"{count} photos {size[0]} x {size[1]} to {options.num_classes} segments at {side} x {side}, CRF"
    return prediction(step, system)

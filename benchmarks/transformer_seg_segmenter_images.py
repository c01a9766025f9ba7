"""Segmenter from photos to label maps, in sliding windows, at the photos' own size."""

from pathlib import Path

from measuring import Benchmark
from prediction import System, photos, prediction

from common.prediction import ItemWriter
from transformer_seg.images import as_lists
from transformer_seg.prediction import MapWriter, OutputFiles, PredictionImages
from transformer_seg.segmenter.apply import views_of
from transformer_seg.segmenter.module import SegmenterModule
from transformer_seg.segmenter.options import SegmenterDataOptions, SegmenterOptions


def build(tiny: bool) -> Benchmark:
    """Photos of 512 x 683, two windows of 512, Seg-T-Mask/16, 150 classes."""
    count, size, side, classes = (2, (32, 44), 32, 5) if tiny else (4, (512, 683), 512, 150)
    split = photos(count, *size)
    options = SegmenterOptions(arch="tiny", num_classes=classes)
    module = SegmenterModule(options, SegmenterDataOptions(image_size=side, crop_size=side))

    def results(out: Path) -> tuple[ItemWriter, list[Path]]:
        files = OutputFiles(split, out)
        writer = MapWriter(files, lambda row, picture, found: found.numpy())
        return writer, [files.of(row, "Pred") for row in range(count)]

    system = System(
        module,
        lambda: PredictionImages(split, lambda picture: views_of(picture, module.normalisation, side, 4.0, False)),
        results,
        collate=as_lists,
    )
    return prediction(f"{count} photos {size[0]} x {size[1]} to {classes} classes, Seg-T-Mask/16", system)

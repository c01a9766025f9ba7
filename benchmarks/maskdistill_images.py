"""maskdistill's final network from photos to label maps, at the photos' own size."""

from pathlib import Path

from measuring import Benchmark
from prediction import System, photos, prediction

from common.prediction import ItemWriter
from maskdistill.segmentation.data import LabelledImages
from maskdistill.segmentation.label_writer import LabelRule, LabelWriter
from maskdistill.segmentation.module import SegmentationModule
from maskdistill.segmentation.options import ModelKwargs, SegmentationDataOptions, SegmentationOptions


def build(tiny: bool) -> Benchmark:
    """Photos of 375 x 500 through DeepLab-v3 with ResNet-50 at 512 x 512, 21 classes, no CRF."""
    count, size, side = (2, (48, 64), 32) if tiny else (2, (375, 500), 512)
    split = photos(count, *size)
    kwargs = ModelKwargs(pretraining="random", trunk="small" if tiny else "resnet50")

    def results(out: Path) -> tuple[ItemWriter, list[Path]]:
        files = [out / f"{row}.png" for row in range(count)]
        return LabelWriter(files, LabelRule()), files

    system = System(
        SegmentationModule(SegmentationOptions(model_kwargs=kwargs, freeze_layers=0)),
        lambda: LabelledImages(split, None, 21, SegmentationDataOptions(image_px=side)),
        results,
        batch_size=16,
    )
    return prediction(f"{count} photos {size[0]} x {size[1]} to 21 classes, {kwargs.trunk} at {side} x {side}", system)

"""ast from files to label maps and slots: a batch at a time beside an image at a time."""

from pathlib import Path

from measuring import Benchmark
from prediction import System, photos, prediction

from ast_seg.foreground_module import SlotLearner
from ast_seg.frames import FrameFiles, Reading
from ast_seg.model.background import BackgroundModel
from ast_seg.options import ExportOptions, LossOptions, ModelOptions
from ast_seg.segmentation import Places, SlotWriter
from common.prediction import ItemWriter


def build(tiny: bool) -> Benchmark:
    """Frames of 240 x 320, worked on at 128 x 128 with ten slots and the published U-Net."""
    count, size, side, slots = (2, (48, 64), 32, 3) if tiny else (16, (240, 320), 128, 10)
    split = photos(count, *size)
    options = ModelOptions(
        max_set_size=slots,
        unet_widths=[8, 16] if tiny else None,
        background_model_training_scenario="random_initialization",
    )
    background = BackgroundModel(height=side, width=side, complexity=False)

    def results(out: Path) -> tuple[ItemWriter, list[Path]]:
        places = Places(split, out)
        return SlotWriter(places, ExportOptions()), [places.file("labels", row) for row in range(count)]

    system = System(
        SlotLearner(options, LossOptions(), (side, side), background),
        lambda: FrameFiles(split, Reading(side, side, target=False)),
        results,
        batch_size=32,
    )
    return prediction(f"{count} frames {size[0]} x {size[1]} to slots at {side} x {side}", system)

"""DINO from photos to the masks of all heads: a batch at a time beside a photo at a time."""

from pathlib import Path

from measuring import Benchmark
from prediction import System, photos, prediction

from common.prediction import ItemWriter
from transformer_seg.dino.arch import Architecture, freeze
from transformer_seg.dino.attention_maps import (
    AttentionNetwork,
    MaskWriter,
    PictureFolders,
    Pictures,
    masks_file,
    read_masks,
)
from transformer_seg.dino.options import AttentionOptions


def build(tiny: bool) -> Benchmark:
    """Photos of 375 x 500 at 480 x 480 through ViT-S/16."""
    count, size, side, arch = (2, (48, 64), 32, "vit_tiny") if tiny else (8, (375, 500), 480, "vit_small")
    split = photos(count, *size)
    network = freeze(Architecture(arch, 16).build())
    pictures = Pictures(split, [side, side], 16)

    def results(out: Path) -> tuple[ItemWriter, list[Path]]:
        writer = MaskWriter(AttentionOptions(out=out), split, set(), PictureFolders(out, single=False))
        return writer, [masks_file(out, name) for name in pictures.names]

    system = System(AttentionNetwork(network), lambda: pictures, results, batch_size=8)
    step = f"{count} photos {size[0]} x {size[1]} to head masks, {arch}/16 at {side} x {side}"
    return prediction(step, system, lambda file: read_masks(file).masks)

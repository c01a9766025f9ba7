"""Step 2, frames to five files each: one by one as a loop would, beside batches with writer threads."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Benchmark
from PIL import Image

from ast_seg.background_dataset import BackgroundWriter
from ast_seg.background_files import file_paths, target_palette
from ast_seg.background_masks import foreground_masks, to_bytes
from ast_seg.median_start import median_start
from ast_seg.model.background import BackgroundModel
from ast_seg.restore import learner_of
from common.allocation import keep_freed_memory
from common.files import read_image, read_labels
from common.synthetic import fixed_camera_clip


def build(tiny: bool) -> Benchmark:
    """Sixty-four frames of 240 x 320 pixels, narrow networks that start at the median, as for a fixed camera."""
    keep_freed_memory()  # as the command does
    count, height, width = (4, 48, 64) if tiny else (64, 240, 320)
    frames = fixed_camera_clip(0, num_frames=count, height=height, width=width).frames
    model = BackgroundModel(height=height, width=width, complexity=False, from_start=True)
    # random networks would draw noise, which no encoder can shrink
    model.generator.start_at(median_start(torch.from_numpy(frames).permute(0, 3, 1, 2)))
    folder = Path(tempfile.mkdtemp())
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")

    def textbook() -> Path:
        return one_by_one(model, folder, count, folder / "textbook")

    def ours() -> Path:
        return batched(model, folder, count, folder / "ours")

    def check(textbook: Path, ours: Path) -> None:
        for index in range(1, count + 1):
            one, other = (file_paths(out, "train", index) for out in (textbook, ours))
            for content in one:
                read = read_labels if content in ("mask", "target") else read_image
                expected, found = (read(paths[content]).astype(np.int64) for paths in (one, other))
                differs = np.abs(expected - found) > (1 if content in ("background", "rgba") else 0)
                assert differs.mean() < 1e-3, content

    return Benchmark(f"background data set of {count} frames of {height}x{width}", textbook, ours, check, frames=count)


def one_by_one(model: BackgroundModel, folder: Path, count: int, out: Path) -> Path:
    """A frame at a time, with the gradient's graph and Pillow's compression, as a first script would."""
    for number in range(count):
        image = np.array(Image.open(folder / f"{number}.png").convert("RGB"))
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        prediction = plain_prediction(model, batch)
        mask = foreground_masks(batch, prediction).masks[0]
        picture = to_bytes(prediction, "trunc")[0].transpose(1, 2, 0)
        target = Image.fromarray(np.zeros(mask.shape, np.uint8), "P")
        target.putpalette(target_palette().tobytes())
        pictures = {
            "input": Image.fromarray(image),
            "background": Image.fromarray(np.ascontiguousarray(picture[..., :3])),
            "rgba": Image.fromarray(np.ascontiguousarray(picture)),
            "mask": Image.fromarray(mask),
            "target": target,
        }
        for content, path in file_paths(out, "train", number + 1).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures[content].save(path)
    return out


def plain_prediction(model: BackgroundModel, images: torch.Tensor) -> torch.Tensor:
    """The networks of PyTorch's own layers; (B, 3, H, W) to (B, 4, H, W)."""
    latents = layers(model.encoder.blocks, images).flatten(1)
    assert model.generator.start is not None
    return 255 * torch.sigmoid(layers(model.generator.blocks, latents[:, :, None, None]) + model.generator.start)


def layers(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    """Coordinates, convolution, normalisation, CELU, block by block."""
    for block in blocks:
        x = block.conv(torch.cat([x, block.coordinates.expand(len(x), -1, -1, -1)], dim=1))
        x = x if block.norm is None else torch.nn.functional.celu(block.norm(x))
    return x


def batched(model: BackgroundModel, folder: Path, count: int, out: Path, batch_size: int = 16) -> Path:
    """By the command's own writer."""
    learner = learner_of(model)
    with BackgroundWriter(out, "train", "trunc", "published", alpha_1=96 / 255, alpha_2=7.0) as writer:
        for start in range(0, count, batch_size):
            numbers = range(start, min(start + batch_size, count))
            images = np.stack([read_image(folder / f"{number}.png").transpose(2, 0, 1) for number in numbers])
            batch = {
                "image": torch.from_numpy(images),
                "index": torch.tensor(list(numbers)),
                "weight": torch.ones(len(images)),
            }
            with torch.inference_mode():
                writer.write(batch, learner.predict_step(batch, 0))
    return out

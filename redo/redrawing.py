"""Pictures of redrawn regions: a sheet per image set, and ways from one noise to another."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from common.files import check_writable, write_image
from common.inputs import input_split
from common.sampling import generator
from common.splits import Split, read_split
from common.visualize import image_grid
from redo.losses import composite
from redo.options import RedrawOptions
from redo.preparation import in_colour, network_images
from redo.restore import Trained, restore
from redo.square_cache import image_square, mask_square


def redraw(options: RedrawOptions) -> Path:
    """Write the picture that the options describe.

    Rows: an image each, for every region in turn. Columns: the image, its mask of the region, and the image with that
    region redrawn from each noise.

    Raises:
        InputError: Input, weights or options that cannot be used.
    """
    if options.input is None:
        raise InputError("give a picture, a folder of pictures or a CSV data split")
    for name, least in (("num_images", 1), ("nz_samples", 2 if options.interpolate else 1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)}: give at least {least}")
    trained = restore(options.model_dir)
    sizes = trained.options
    if options.region is not None and not 0 <= options.region < sizes.nMasks:
        raise InputError(f"--region {options.region}: the networks have the regions 0 to {sizes.nMasks - 1}")
    check_writable(options.out.parent)
    split = _split(options)
    images = network_images(torch.from_numpy(_squares(split, trained)))
    with torch.inference_mode():
        masks = _masks(options, trained, split, images)
        noise = noises(options, len(images), sizes.nMasks, sizes.nz)
        regions = range(sizes.nMasks) if options.region is None else [options.region]
        rows = [_rows(trained, images, masks, noise, region, options.share_z) for region in regions]
    write_image(options.out, image_grid([tile for row in rows for tile in row], columns=2 + options.nz_samples))
    return options.out


def noises(options: RedrawOptions, num_images: int, n: int, nz: int) -> Tensor:
    """The noises of all columns (V, B, n, nz, 1, 1).

    On the way between two noises the length is kept: on a sphere of many dimensions the middle of a straight line
    would be far shorter than anything the generators have seen.
    """
    count = 1 if options.share_z else num_images
    shape = (count, n, nz, 1, 1)
    drawn = [torch.randn(shape, generator=generator(options.seed, "noise", v)) for v in range(options.nz_samples)]
    if options.interpolate:
        first, last = drawn[0], drawn[-1]
        steps = torch.linspace(0, 1, options.nz_samples)
        drawn = [between(first, last, float(step)) for step in steps]
    return torch.stack(drawn).expand(-1, num_images, -1, -1, -1, -1)


def between(first: Tensor, last: Tensor, step: float) -> Tensor:
    """A point on the arc from one noise to another, over the third axis (B, n, nz, 1, 1)."""
    a, b = (x / x.norm(dim=2, keepdim=True) for x in (first, last))
    angle = (a * b).sum(dim=2, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    direction = (((1 - step) * angle).sin() * a + (step * angle).sin() * b) / angle.sin()
    return direction * ((1 - step) * first.norm(dim=2, keepdim=True) + step * last.norm(dim=2, keepdim=True))


def _split(options: RedrawOptions) -> Split:
    assert options.input is not None
    if options.input.suffix.lower() == ".csv":
        split = read_split(options.input, base_dir=options.base_dir)
    else:
        split = input_split(options.input, options.out.parent / f"{options.out.stem}_input")
    split = split.take(split.available("Image"))
    return split.take(list(range(min(options.num_images, len(split)))))


def _squares(split: Split, trained: Trained) -> NDArray[np.uint8]:
    sizes = trained.options
    if not len(split):
        raise InputError(f"{split.file}: the 'Image' column is empty; nothing to redraw")
    return np.stack([image_square(split.path(row, "Image"), sizes.sizex, sizes.nx) for row in range(len(split))])


def _masks(options: RedrawOptions, trained: Trained, split: Split, images: Tensor) -> Tensor:
    """Masks (B, n, S, S) as asked for."""
    n = trained.options.nMasks
    if options.masks == "file":
        if n != 2:
            raise InputError(f"--masks file: a mask has two regions, these networks {n}")
        side = trained.options.sizex
        found = [
            mask_square(split.path(row, "GtMask"), split.path(row, "Image"), side, options.mask_encoding)
            for row in range(len(split))
        ]
        objects = torch.from_numpy(np.stack(found)).float()
        region = trained.object_region or 0
        return torch.stack([objects, 1 - objects] if region == 0 else [1 - objects, objects], dim=1)
    masks = trained.network("M")(images)
    if options.masks == "binary":
        hard = masks.argmax(dim=1)
        return torch.nn.functional.one_hot(hard, n).permute(0, 3, 1, 2).float()
    return masks


def _rows(
    trained: Trained, images: Tensor, masks: Tensor, noise: Tensor, region: int, share: bool
) -> list[NDArray[np.uint8]]:
    """The tiles of one region, row by row."""
    generators = trained.network("X")
    columns = [redrawn_region(generators, images, masks, one, region) for one in noise]
    pictures = [in_colour(images), in_colour(masks[:, region : region + 1] * 2 - 1), *map(in_colour, columns)]
    return [as_picture(column[i]) for i in range(len(images)) for column in pictures]


def redrawn_region(generators: torch.nn.Module, images: Tensor, masks: Tensor, noise: Tensor, region: int) -> Tensor:
    """The images (B, C, S, S) with one region redrawn from noise (B, n, nz, 1, 1)."""
    drawings = generators(masks, noise)
    return composite(drawings, masks, images).unflatten(0, masks.shape[:2])[:, region]


def as_picture(image: Tensor) -> NDArray[np.uint8]:
    """A tensor (3, S, S) in [-1, 1] as uint8 (S, S, 3)."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()

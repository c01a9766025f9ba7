"""The picture of the original's example: images of a data set, their masks, their regions redrawn."""

from pathlib import Path

import torch

from common.errors import InputError
from common.files import check_writable, write_image
from common.sampling import generator
from common.splits import Split, read_split
from common.visualize import image_grid
from redo.containers import PublishedNetworks, import_containers
from redo.data import SquareImages
from redo.named_data import with_split
from redo.options import DataOptions, ExampleOptions
from redo.preparation import in_colour, network_images
from redo.redrawing import as_picture, redrawn_region
from redo.square_cache import NO_OBJECT_KNOWN

TILES_PER_IMAGE = 6
SHOWN_STEP = {"lfw": "test"}  # the other data sets have annotations in their training part, which is the largest


def run(options: ExampleOptions) -> Path:
    """Write the picture: per image input, ground truth, mask, its pixels from .5 on, first and second region redrawn.

    Raises:
        InputError: Weights, data or device that cannot be used.
    """
    published = weights(options)
    if options.batch_size < 1:
        raise InputError(f"--batch_size {options.batch_size}: give at least 1")
    device = checked_device(options.device)
    check_writable(options.out.parent)
    sizes = published.options
    data = DataOptions(cache_dir=options.cache_dir)
    split = shown_split(options, published)
    order = torch.randperm(len(split), generator=generator(options.seed, "images"))[: options.batch_size]
    images = SquareImages(split.take(order.numpy()), sizes.sizex, sizes.nx, data, scored=True)
    images.build()
    batch = images.__getitems__(range(len(images)))
    inputs = network_images(batch["image"].to(device))
    shape = (len(inputs), sizes.nMasks, sizes.nz, 1, 1)
    noise = torch.randn(shape, generator=generator(options.seed, "noise")).to(device)
    mask_network, region_generators = (published.networks[letter].to(device) for letter in "MX")
    with torch.inference_mode():
        masks = mask_network(inputs)
        redrawn = [redrawn_region(region_generators, inputs, masks, noise, region) for region in (0, 1)]
    objects = torch.where(batch["object"] == NO_OBJECT_KNOWN, 0, batch["object"])[:, None].float().to(device)
    first = masks[:, :1]
    columns = [inputs, objects * 2 - 1, first * 2 - 1, (first >= 0.5).float() * 2 - 1, *redrawn]
    tiles = [as_picture(in_colour(column[i])) for i in range(len(inputs)) for column in columns]
    write_image(options.out, image_grid(tiles, columns=TILES_PER_IMAGE * (2 if len(inputs) > 8 else 1)))
    return options.out


def weights(options: ExampleOptions) -> PublishedNetworks:
    """The networks of the files that are named; mask network and generators are among them.

    Raises:
        InputError: None is named, one is missing, or cannot be read.
    """
    singles = (options.statePathM, options.statePathX, options.statePathZ, options.statePathD)
    files = [path for path in (options.statePath, *singles) if path is not None]
    if not files:
        raise InputError("give --statePath with all networks, or --statePathM and --statePathX")
    published = import_containers(files)
    for letter, flag in (("M", "--statePathM"), ("X", "--statePathX")):
        if letter not in published.networks:
            raise InputError(f"{files[0]}: holds no network {letter}; give {flag} too")
    return published


def shown_split(options: ExampleOptions, published: PublishedNetworks) -> Split:
    """Where the images come from: the split, or the data set that is named or recorded in the weights.

    Raises:
        InputError: No such data.
    """
    if options.data_file is not None:
        return read_split(options.data_file, base_dir=options.base_dir)
    name = options.dataset or published.run_options.get("dataset")
    if not isinstance(name, str):
        raise InputError(
            "the weights do not say what they were trained on: give --dataset with --dataroot, or --data_file"
        )
    data = with_split(DataOptions(dataset=name, dataroot=options.dataroot, cache_dir=options.cache_dir))
    assert data.data_file is not None
    return read_split(data.data_file, SHOWN_STEP.get(name, "train"), data.base_dir)


def checked_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        InputError: No such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); use cpu") from error
    return device

"""Step 4: apply a trained model and write the masks of every image, in order, resumably.

<out>/labels/SEQUENCE/00000.png    label map at the image's own size, 0 background, 1..K the slot
<out>/slots/SEQUENCE/00000.npz     latents of the slots, and with --layers soft weights and object layers
<out>/objects/SEQUENCE/00000.png   clips: the same labels, numbered so that an object keeps its number
<out>/latents.csv                  a line per slot that shows: place, scale, activation, box, appearance
<out>/sample_0.png                 the published grid of the first twenty images
<out>/NAME.csv                     a data split with Pred, for scores and for the next method
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from ast_seg.foreground_module import SlotLearner, SlotPrediction
from ast_seg.frames import FrameFiles, Reading
from ast_seg.model.rendering import strongest_layer
from ast_seg.options import ApplyOptions, ExportOptions
from ast_seg.restore import file_hash, restore_background, restore_slots
from ast_seg.sample_grid import grid_order, label_colours, sample_stack
from ast_seg.slot_tables import write_tables
from ast_seg.splits_of import folder_split
from common.errors import InputError
from common.files import atomic_path, check_writable, image_size, write_image, write_labels
from common.inputs import input_split, predictions_folder
from common.messages import is_first_process, tell
from common.options import TrainerFlags
from common.overlays import write_overlays
from common.prediction import ItemWriter, claim, predict_items
from common.splits import Split, relative_cell, write_split

NUM_SAMPLES = 20


def segment(options: ApplyOptions, export: ExportOptions, flags: TrainerFlags) -> Path:
    """Segment everything that the options name.

    Returns:
        The prediction split's CSV file.

    Raises:
        InputError: Images, checkpoint or options that cannot be used.
    """
    learner = restore_slots(options.object_model_checkpoint_path)
    out = options.results_dir_path or predictions_folder(options.object_model_checkpoint_path, options.input)
    check_writable(out, "--results_dir_path")
    split = named_split(options, out)
    frames = frames_for(learner, split, options)
    if is_first_process():
        claim(out, _source(options, export, split), "remove them, or give another --results_dir_path")
    places = Places(split, out)
    pending = [row for row in range(len(split)) if not places.stands(row, export.layers)]
    if is_first_process():
        places.tidy()
    predict_items(
        learner,
        frames,
        pending,
        SlotWriter(places, export),
        flags=flags,
        gpus=options.gpus,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )
    written = out / f"{split.name}.csv"
    if not is_first_process():
        return written
    write_sample(learner, frames, out / "sample_0.png", export)
    column = write_tables(split, places, learner, export)
    rows = prediction_rows(split, places, column)
    predicted = write_split(written, rows)
    tell(f"{written}: {len(rows)} label maps")
    if export.overlay:
        write_overlays(Split(predicted.file, out, predicted.cells), out / "overlays")
    return written


def named_split(options: ApplyOptions, out: Path) -> Split:
    """The split of what the options name.

    Raises:
        InputError: Nothing named, or it cannot be read.
    """
    if options.test_dataset_input_path is not None:
        others = {"Background": options.test_dataset_background_path, "GtInstance": options.test_dataset_GT_mask_path}
        return folder_split(options.test_dataset_input_path, others, "test")
    source = options.input or options.data_file
    if source is None:
        raise InputError("name the images: a picture, folder, video or .csv split, or --test_dataset_input_path FOLDER")
    return input_split(source, out, options.base_dir, clip=True)


def frames_for(learner: SlotLearner, split: Split, options: ApplyOptions) -> FrameFiles:
    """The frames of a split as the model takes them; the model is given background networks where it needs them.

    Raises:
        InputError: No backgrounds, or a size that the networks cannot work at.
    """
    height, width = options.image_height or learner.size[0], options.image_width or learner.size[1]
    if options.background_model is not None:
        learner.background = restore_background(options.background_model).model
    live = learner.background is not None and (learner.uses_live() or options.background_model is not None)
    if live and learner.background is not None:
        own = learner.background.height, learner.background.width
        if (height, width) != own:
            raise InputError(
                f"--image_height {height} --image_width {width}: the background networks work at {own[0]}x{own[1]} "
                "only; leave the flags out"
            )
    elif "Background" not in split.columns or not split.available("Background").all():
        raise InputError(
            f"{split.file}: the model was trained on stored backgrounds and the images have none; give "
            "--background_model RUN, or a split with a Background column"
        )
    learner.renderer.resize(height, width)
    reading = Reading(height, width, background=not live, mask_encoding=options.mask_encoding)
    return FrameFiles(split, reading)


def _source(options: ApplyOptions, export: ExportOptions, split: Split) -> dict[str, Any]:
    """What the files depend on."""
    return {
        "checkpoint": file_hash(options.object_model_checkpoint_path),
        "background": file_hash(options.background_model) if options.background_model else None,
        "split": split.hash(),
        "size": [options.image_height, options.image_width],
        "layers": export.layers,
        "colours": export.color_palette,
    }


class Places:
    """Where the files of each row are."""

    def __init__(self, split: Split, out: Path) -> None:
        self.split, self.out = split, out
        self.sequences, self.numbers = split.column("Sequence"), split.index

    def file(self, kind: str, row: int) -> Path:
        """The file of a row: kind ``labels``, ``slots`` or ``objects``."""
        suffix = "npz" if kind == "slots" else "png"
        return self.out / kind / str(self.sequences[row]) / f"{int(self.numbers[row]):05d}.{suffix}"

    def stands(self, row: int, layers: bool) -> bool:
        """Whether a row is done; its label map is written last."""
        return self.file("labels", row).is_file() and self.file("slots", row).is_file()

    def tidy(self) -> None:
        """Remove what a killed run left half written."""
        for kind in ("labels", "slots", "objects"):
            for leftover in (self.out / kind).rglob(".*.tmp.*"):
                leftover.unlink(missing_ok=True)


class SlotWriter(ItemWriter):
    """Writes the label map and the slots of each image."""

    def __init__(self, places: Places, export: ExportOptions) -> None:
        super().__init__()
        self.places, self.layers, self.palette = places, export.layers, export.color_palette

    def write(self, batch: Any, prediction: SlotPrediction) -> None:
        """Write the images of a batch; repeats are left out."""
        rendering = prediction.rendering
        colours = palette_bytes(len(rendering.log_weights) - 1, self.palette)
        for item, weight in enumerate(batch["weight"].tolist()):
            if weight > 0:
                row = int(batch["index"][item])
                size = image_size(self.places.split.path(row, "Image"))
                labels = labels_at(rendering.log_weights[:, item, 0], size)
                self._write_slots(row, item, prediction)
                write_labels(self.places.file("labels", row), labels, colours)

    def _write_slots(self, row: int, item: int, prediction: SlotPrediction) -> None:
        rendering = prediction.rendering
        arrays = {
            "latents": prediction.latents[:, item],
            "centre": prediction.centre[:, item],
            "scale": prediction.scale[:, item],
        }
        if self.layers:
            arrays["weights"] = rendering.weights[:, item, 0].half()
            arrays["layers"] = (255 * rendering.colours[:, item].clamp(0, 1)).round().to(torch.uint8)
            arrays["background"] = (255 * rendering.background[item].clamp(0, 1)).round().to(torch.uint8)
        with atomic_path(self.places.file("slots", row)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, allow_pickle=False, **{name: array.cpu().numpy() for name, array in arrays.items()}
            )


def labels_at(log_weights: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The layer with the largest weight, from log-weights (K+1, h, w) at a size (H, W): uint8 (H, W)."""
    weights = log_weights.float().exp()
    if weights.shape[-2:] != size:
        weights = torch.nn.functional.interpolate(weights[None], size, mode="bilinear", align_corners=False)[0]
    return strongest_layer(weights).to(torch.uint8).cpu().numpy()


def palette_bytes(num_slots: int, palette: str) -> np.ndarray:
    """The 256 colours of a label map's file, uint8 (256, 3)."""
    colours = (255 * label_colours(num_slots, palette)).round().to(torch.uint8).numpy()  # type: ignore[arg-type]
    full = np.zeros((256, 3), np.uint8)
    full[0] = colours[0]
    full[1:] = np.resize(colours[1:], (255, 3))
    return full


def write_sample(learner: SlotLearner, frames: FrameFiles, file: Path, export: ExportOptions) -> None:
    """The published grid: inputs, reconstructions, labels of the first twenty images."""
    count = min(NUM_SAMPLES, len(frames) - len(frames) % 4 or len(frames))
    items = [frames[row] for row in range(count)]
    batch: dict[str, Any] = {
        name: torch.stack([item[name] for item in items]) for name in ("image", "background") if name in items[0]
    }
    learner = learner.cpu().eval()
    with torch.inference_mode():
        rendering = learner.predict_step(batch, 0).rendering
    stack = sample_stack(
        batch["image"].float() / 255, rendering.reconstruction, rendering.weights, palette=export.color_palette
    )
    order = grid_order(len(stack)) if len(stack) % 4 == 0 else torch.arange(len(stack))
    grid = make_grid(stack[order].clamp(0, 1), nrow=max(1, count // 4), pad_value=1)
    write_image(file, (255 * grid).round().to(torch.uint8).permute(1, 2, 0).numpy())


def prediction_rows(split: Split, places: Places, column: str) -> list[dict[str, str]]:
    """The rows of the prediction split: those of the input with ``Pred``, paths relative to the output folder."""
    rows = []
    paths = [name for name in ("Image", "GtMask", "GtInstance", "GtSemantic", "Background") if name in split.columns]
    known = {name: split.available(name) for name in paths}
    for row in range(len(split)):
        here = [name for name in paths if known[name][row]]
        cells: dict[str, str] = {name: relative_cell(split.path(row, name), places.out) for name in here}
        rows.append(
            {
                "Sequence": str(places.sequences[row]),
                "Sequence_Index": str(places.numbers[row]),
                **cells,
                "Pred": relative_cell(places.file(column, row), places.out),
            }
        )
    return rows

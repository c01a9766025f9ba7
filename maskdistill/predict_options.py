"""The options of prediction and export with a trained run; torch-free."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to segment, and with what."""

    input: Path = field(metadata={"positional": True})
    """A picture, a folder of pictures, a video, or a CSV split with an Image column."""
    model_dir: Path = Path("runs/maskdistill")
    """Run of run.py (its last network), run of train.py, or a file: a checkpoint of ours, or a published DeepLab."""
    detector_dir: Path | None = None
    """Mask R-CNN for the instances; default: that of the run, else every connected region is an instance."""
    out: Path = Path("predictions")
    """Folder of the results."""
    base_dir: Path | None = None
    """CSV split: folder that its paths are relative to; default its own."""
    select: Literal["last", "best"] = "last"
    """Weights of the run: the last, or the best on the validation labels."""
    crf_postprocess: bool = False
    """Refine the label maps with a dense CRF."""
    crf_min_probability: float = 1e-3
    """CRF: classes that nowhere reach it are left out; 0 keeps all."""
    crf_workers: int | None = None
    """Processes for the CRF; 0 = this one; default: one per core."""
    predict_resize: Literal["labels", "logits"] = "logits"
    """Without CRF: the logits are resized to the image, or the labels are, as published."""
    threshold: float = 0.5
    """Detections of at least this score are instances."""
    image_px: int | None = None
    """Side of the network's square input; default: that of its training, else 512."""
    overwrite: bool = False
    """Remove label maps of other weights first; otherwise they stop the run."""
    batch_size: int = 8
    """Images per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """A trained semantic network as a file for other programs."""

    model_dir: Path = field(default=Path("runs/maskdistill"), metadata={"positional": True})
    """Run of run.py (its last network), run of train.py, or a file: a checkpoint of ours, or a published DeepLab."""
    out: Path = Path("deeplab.onnx")
    """File to write: .onnx, or .pth.tar for the original's layout."""
    select: Literal["last", "best"] = "last"
    """Weights of the run: the last, or the best on the validation labels."""
    image_px: int | None = None
    """Side of the network's square input; default: that of its training, else 512."""
    tolerance: float = 1e-3
    """Largest difference of the exported network's logits on a random image, relative to the largest logit."""

"""Segment a split, a video or a folder of pictures with a trained motion segmenter.

python stflow/predict.py --model_dir runs/stflow --data_file DataSplit/NAME_val.csv --base_dir DATA
python stflow/predict.py clip.mp4 --model_dir runs/stflow
"""

from dataclasses import dataclass, field
from pathlib import Path

from common import cli
from common.errors import InputError
from common.options import TrainerFlags
from stflow.options import Boundaries, Foreground, Linking, MaskEncoding


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to segment, and with what."""

    input: Path | None = field(default=None, metadata={"positional": True})
    """A video, or a folder of pictures; its optical flow is computed first. Or give --data_file."""
    data_file: Path | None = None
    """A data split with a Flow column (CSV file)."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    model_dir: Path = Path("runs/stflow")
    """Run directory (its best checkpoint) or checkpoint file, ours or the authors'."""
    out: Path | None = None
    """Folder of the predictions; default: predictions/ in the run directory."""
    cuts_size: int | None = 10
    """Windows that are linked with each other; None or -1 = the whole sequence."""
    linking: Linking = "greedy"
    """Linking rule: greedy is the published one, hungarian never merges two segments."""
    foreground: Foreground | None = None
    """Segments that make the mask: optimax, optimax_exact (both look at the ground truth) or exceptbiggest (does not).
    Default: optimax where there is ground truth, and the scores say so."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground."""
    img_size: list[int] | None = None
    """Rows and columns the network works at; default: those of its training."""
    boundaries: Boundaries = "Ignore"
    """Periodic also predicts windows centred on the first and last frame."""
    overlay: bool = True
    """Write an overlay video per sequence (needs the Image column)."""
    batch_size: int = 10
    """Windows per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the memory-mapped resized flows."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


ALIASES = {"-md": "--model_dir", "-b": "--base_dir", "-cs": "--cuts_size", "--cut_size": "--cuts_size"}


def predict(options: PredictOptions, flags: TrainerFlags) -> int:
    """Predict motion segments and foreground masks for every frame of a split, a video or a folder."""
    if (options.input is None) == (options.data_file is None):
        raise InputError("give either a video or folder, or --data_file with a split")
    from stflow.apply import apply
    from stflow.named_inputs import tell

    tell(f"predictions: {apply(options, flags)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(predict, PredictOptions, TrainerFlags, argv=argv, aliases=ALIASES, prog="predict.py")


if __name__ == "__main__":
    raise SystemExit(main())

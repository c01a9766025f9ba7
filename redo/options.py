"""The options of ReDO: one dataclass per idea, torch-free, so that ``--help`` is quick.

Names and defaults are those of the original command line, where it has the option. ``ALIASES`` holds its spellings of
options that bear one name in all methods of this project.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from common.errors import InputError
from common.files import MaskEncoding

ALIASES = {"--outf": "--out", "--manualSeed": "--seed"}

SIZES = (32, 64, 128, 256)
SpectralInit = Literal["default", "orthogonal"]
CollapseStatistic = Literal["all", "last_batch"]
Matching = Literal["per_image", "dataset"]
MaskKind = Literal["soft", "binary", "file"]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What the shapes of the networks depend on."""

    nx: int = 3
    """Image channels: 3, or 1 for grey."""
    sizex: int = 128
    """Side of the square images: 32, 64, 128 (published) or 256."""
    nz: int = 32
    """Noise numbers per region."""
    nMasks: int = 2
    """Regions, 2 or more."""
    nResM: int = 3
    """Residual blocks of the mask network."""
    nf: int = 64
    """Base width of all networks, at least 4."""
    nfM: int | None = None
    """Width of the mask network, nf when not given."""
    nfX: int | None = None
    """Width of the region generators, nf when not given."""
    nfD: int | None = None
    """Width of the discriminator, nf when not given."""
    nfZ: int | None = None
    """Width of the noise encoder, nf when not given."""
    useSelfAttD: bool = False
    """Self-attention in the discriminator."""
    useSelfAttG: bool = False
    """Self-attention in the region generators."""
    temperature: float = 1.0
    """Divides the mask logits."""

    def width(self, network: str) -> int:
        """Width of network M, X, D or Z."""
        own = getattr(self, f"nf{network}")
        return self.nf if own is None else own

    def sizes(self) -> "NetworkOptions":
        """These options alone, of a class that has more."""
        return NetworkOptions(**{item.name: getattr(self, item.name) for item in fields(NetworkOptions)})

    def check(self) -> None:
        """Refuse sizes that no network can have.

        Raises:
            InputError: Names the option, its value and what it may be.
        """
        if self.sizex not in SIZES:
            raise InputError(f"--sizex {self.sizex}: the networks exist for 32, 64, 128 and 256")
        for name, value, least in (("nMasks", self.nMasks, 2), ("nx", self.nx, 1), ("nz", self.nz, 1)):
            if value < least:
                raise InputError(f"--{name} {value}: needs to be at least {least}")
        if self.nResM < 0:
            raise InputError(f"--nResM {self.nResM}: needs to be 0 or more")
        for network in "MXDZ":
            if self.width(network) < 4:
                raise InputError(f"--nf{network} (or --nf) {self.width(network)}: needs to be at least 4")
        if not self.temperature > 0:
            raise InputError(f"--temperature {self.temperature}: needs to be above 0")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(NetworkOptions):
    """Networks, losses and optimisers."""

    nIteration: int = 50000
    """Training iterations; the authors stop between 20000 and 40000, later it destabilises."""
    initOrthoGain: float = 0.8
    """Gain of the orthogonal initial weights."""
    init_sn: SpectralInit = "default"
    """Initial weights of layers with spectral norm: default is what the published runs had, on GPUs."""
    lrG: float = 1e-4
    """Learning rate of the region generators."""
    lrM: float = 1e-5
    """Learning rate of the mask network."""
    lrD: float = 1e-4
    """Learning rate of the discriminator."""
    lrZ: float = 1e-4
    """Learning rate of the noise encoder."""
    gStepFreq: int = 1
    """Mask network, generators and noise encoder take a step every so many iterations."""
    dStepFreq: int = 1
    """The discriminator takes a step every so many iterations."""
    wdecay: float = 1e-4
    """L2 term of the mask network, inside Adam."""
    wrecZ: float = 5.0
    """Weight of the noise recovery; 0: none, and no noise encoder."""


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Checkpoints, and the watch for collapse."""

    checkpointFreq: int = 500
    """Iterations between two evaluations, each with a sheet and a checkpoint; Lightning's epoch here."""
    nTest: int = 5
    """Images on the sheet."""
    autoRestart: float = 0.0
    """Start again when the smallest region covers less than this share of the images; 0 = never, .1 advised."""
    maxRestarts: int = 10
    """Restarts before giving up; each has a new seed."""
    restartUntil: int = 7000
    """Last iteration of an attempt at which a collapse restarts; later it stops the run."""
    stuckError: float = 0.0
    """Also start again when the worst region's noise error is still above this after --stuckAfter; 0 = never."""
    stuckAfter: int = 5000
    """Iteration from which --stuckError is looked at, up to --restartUntil."""
    collapse_stat: CollapseStatistic = "all"
    """Validation images that the smallest region is measured on; the original takes the last batch."""
    iteration: int = 0
    """Continue from state_<iteration>.pth of --out, written by this project or the original."""
    clean: bool = False
    """Keep only the newest state_<iteration>.pth, and delete collapsed attempts instead of setting them aside."""
    silent: bool = False
    """No progress bar."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data."""

    data_file: Path | None = None
    """Split prefix with its folder: NAME stands for NAME_train.csv and NAME_val.csv. Otherwise --dataset."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    dataset: str = "flowers"
    """flowers, cub, lfw, cmnist, folder, or a mix such as lfw+flowers; read from --dataroot."""
    dataroot: str = "./data"
    """Folder of the data set in its own layout; of a mix one per part, joined by + as well."""
    batchSize: int = 20
    """Images per batch and process; the authors advise against fewer than 20."""
    workers: int = 0
    """Loader processes; the images come from a memory map, which needs none (the original's default is 4)."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are the object."""
    evalTrain: int = 0
    """Annotated training images to score at each evaluation too; -1 = all, as the original does."""
    skip_bad: int = 0
    """Unreadable images to leave out before giving up."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the memory-mapped square images, shared by runs and processes."""
    seed: int = 123
    """Seed of initial weights, order and noise; attempts after a collapse have seeds drawn from it (restarts.csv)."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to cut, and with what."""

    input: Path | None = field(default=None, metadata={"positional": True})
    """A picture, a folder of pictures, or a video. Or give --data_file."""
    data_file: Path | None = None
    """A data split with an Image column (CSV file)."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    model_dir: Path = Path("runs/redo")
    """Run directory (its best checkpoint), checkpoint file, or published weights (.pth, .tar.gz)."""
    out: Path | None = None
    """Folder of the predictions; default: in the run directory, predictions/ or predictions_<input>/."""
    object: int | None = None
    """Region that is the object; default: of the run's validation data, or else the one least seen at the border."""
    threshold: float = 0.5
    """With two regions: a pixel belongs to the object where its mask reaches this."""
    overlay: bool = True
    """Write pictures with the object marked."""
    batch_size: int = 16
    """Squares per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What is scored."""

    data_file: Path = field(metadata={"positional": True})
    """A data split with Image and GtMask columns (CSV file)."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    model_dir: Path = Path("runs/redo")
    """Run directory (its best checkpoint), checkpoint file, or published weights (.pth, .tar.gz)."""
    out: Path = Path("runs/redo/scores")
    """Folder for scores.json and per_image.csv."""
    threshold: float = 0.5
    """With two regions: a pixel belongs to the first where its mask reaches this."""
    legacy_empty_iou: bool = False
    """The IoU of an empty region with an empty object is undefined, as in the original, instead of 1."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are the object."""
    batch_size: int = 64
    """Images per batch."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the memory-mapped square images."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """The chain."""

    test_file: Path | None = None
    """Split to predict and score; default: the _test split of --data_file, or its _val split when there is none."""
    sheets: int = 8
    """Test images on the redrawn sheet."""


@dataclass(frozen=True, kw_only=True)
class RedrawOptions:
    """What to redraw, and with what."""

    input: Path | None = field(default=None, metadata={"positional": True})
    """A picture, a folder of pictures, or a CSV data split."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    model_dir: Path = Path("runs/redo")
    """Run directory (its best checkpoint), checkpoint file, or published weights (.pth, .tar.gz)."""
    out: Path = Path("redrawn.png")
    """Picture to write."""
    num_images: int = 8
    """Images on it; the first ones of the input."""
    region: int | None = None
    """Only this region is redrawn; default: each in turn."""
    nz_samples: int = 6
    """Noises per image."""
    interpolate: bool = False
    """The noises lie on the way between the first and the last instead of being drawn each."""
    share_z: bool = False
    """The same noises for all images."""
    masks: MaskKind = "soft"
    """soft: as the network says; binary: hard; file: the split's GtMask."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are the object (--masks file)."""
    seed: int = 0
    """Seed of the noises."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """What the example shows."""

    statePath: Path | None = None
    """Weights of all networks in one file (.pth or .tar.gz)."""
    statePathM: Path | None = None
    """Weights of the mask network."""
    statePathX: Path | None = None
    """Weights of the region generators."""
    statePathZ: Path | None = None
    """Weights of the noise encoder (read and checked, not needed)."""
    statePathD: Path | None = None
    """Weights of the discriminator (read and checked, not needed)."""
    dataset: str | None = None
    """flowers, cub, lfw or folder; default: what the weights were trained on."""
    dataroot: str = "./data"
    """Folder of the data set in its own layout."""
    data_file: Path | None = None
    """A data split instead (CSV file)."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    batch_size: int = 40
    """Images shown."""
    device: str = "cpu"
    """cpu, cuda, cuda:0 ..."""
    out: Path = Path("out.png")
    """Picture to write: input, ground truth, mask, mask from .5 on, first and second region redrawn."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the splits and square images."""
    seed: int = 0
    """Seed of the choice of images and of the noise."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported."""

    model_dir: Path = Path("runs/redo")
    """Run directory (its best checkpoint), checkpoint file, or published weights (.pth, .tar.gz)."""
    out: Path = Path("redo.onnx")
    """File to write: .onnx (mask network alone) or .pth (all networks, in the original's layout)."""
    opset: int = 18
    """ONNX operator set."""


def check_options(model: ModelOptions, watch: WatchOptions, data: DataOptions) -> None:
    """Refuse options that training cannot work with, each in one line.

    Raises:
        InputError: Names the flag, the value and the remedy.
    """
    model.check()
    if model.nx not in (1, 3):
        raise InputError(f"--nx {model.nx}: give 3 for colour images or 1 for grey ones")
    least = {"nIteration": 1, "gStepFreq": 1, "dStepFreq": 1, "wrecZ": 0, "wdecay": 0, "initOrthoGain": 0}
    rates = dict.fromkeys(("lrG", "lrM", "lrD", "lrZ"), 0)
    for options, bounds in (
        (model, {**least, **rates}),
        (
            watch,
            {"checkpointFreq": 1, "nTest": 1, "maxRestarts": 0, "restartUntil": 0, "iteration": 0, "stuckError": 0},
        ),
        (data, {"batchSize": 1, "workers": 0, "evalTrain": -1, "skip_bad": 0}),
    ):
        for name, bound in bounds.items():
            if not getattr(options, name) >= bound:
                raise InputError(f"--{name} {getattr(options, name)}: give at least {bound}")
    if not 0 <= watch.autoRestart < 1 / model.nMasks:
        raise InputError(
            f"--autoRestart {watch.autoRestart}: the smallest of {model.nMasks} regions covers at most"
            f" {1 / model.nMasks:.2f} of the image; give 0 (never) or less than that, .1 is usual"
        )

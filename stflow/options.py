"""The options of stflow: one dataclass per idea, torch-free, so that ``--help`` is quick.

Names and defaults are the original command line's, and the defaults are the publication's settings (Meunier and
Bouthemy, CVPR 2023, section 4). ``ALIASES`` holds the spellings of the original README and its short flags.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.errors import InputError
from common.windows import parse_request

ALIASES = {
    "-L": "--nAffineMasks",
    "-mt": "--model_type",
    "-bb": "--backbone",
    "-inm": "--unet.inner_normalisation",
    "--image_size": "--img_size",
    "--path_save_model": "--out",
    "--legacy_perturb_val": "--legacy_val",
}

Norm = Literal[
    "InstanceNorm",
    "BatchNorm",
    "None",
    "cInstanceNorm2d",
    "cBlockNorm3d",
    "cBlockNorm3dSmooth",
    "cBlockNorm3dSmoothV2",
]
Boundaries = Literal["Strict", "Periodic", "Ignore"]
MaskEncoding = Literal["auto", "255", "binary01", "palette_ids", "threshold128"]
Linking = Literal["greedy", "hungarian"]
Foreground = Literal["optimax", "optimax_exact", "exceptbiggest"]
Distance = Literal["squared", "l2", "l1", "charb", "l2_normed", "l2_normed_alt", "squared_normed_alt"]


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """3D U-Net."""

    num_layers: int = 3
    """Levels including the bottleneck."""
    features_start: int = 32
    """Channels of the first level (even)."""
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    """Padding of the 3x3x3 convolutions."""
    inner_normalisation: Norm = "InstanceNorm"
    """Normalisation after each convolution; None for no normalisation."""
    train_bn: bool = False
    """Normalisation layers track running statistics and use them in evaluation."""


@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """Optimiser."""

    name: Literal["Adam", "AdamW", "SGD"] = "Adam"
    """Class of torch.optim."""
    lr: float = 1e-4
    """Learning rate, constant."""
    weight_decay: float = 0.0
    """Weight decay."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Model and loss."""

    nAffineMasks: int = 4
    """Number of segments L."""
    model_type: Literal["coherence_B"] = "coherence_B"
    """Only one is published."""
    backbone: Literal["FlowUnet3D"] = "FlowUnet3D"
    """Only one is published."""
    inputs: list[str] = field(default_factory=lambda: ["Flow-1", "Flow", "Flow+1"])
    """Flow fields given to the network; must contain Flow."""
    flows_volume: list[str] = field(default_factory=lambda: ["Flow-1", "Flow", "Flow+1"])
    """Flow fields the loss is computed on."""
    len_seq: int = 3
    """Number of fields of the loss; must equal the length of flows_volume."""
    param_model: str = "QuadraticFullPT"
    """Motion model of a segment: Affine, QuadraticFull, QuadraticPlanar, each also with PT (linear in time)."""
    coherence_loss: Literal["pieceFit", "pieceFitScale"] = "pieceFitScale"
    """Data term; Scale divides by the mean flow magnitude of each frame."""
    v_distance: Distance = "l1"
    """Distance between the observed and the parametric flow vectors."""
    regularisation: dict[str, float] = field(default_factory=lambda: {"EulerPottsl1R3": 1.0})
    """Regularisers and their weights, as JSON: EulerPottsl1R3, the published one; FlowClusters, which keeps segments
    alive in short training."""
    theta_solver: Literal["irls", "lbfgs", "ols"] = "irls"
    """Estimation of the motion parameters: irls (fast), lbfgs (the published one), ols (least squares only)."""
    theta_iterations: int = 10
    """Re-weightings of irls."""
    legacy_grid: bool = False
    """Published time axis for a single frame (t = -1 instead of 0)."""
    binary_method: Literal["exceptbiggest", "fair"] = "exceptbiggest"
    """Foreground rule of the score shown during training; fair uses the ground truth."""
    experimental_flag: list[str] | None = field(default_factory=lambda: ["PerturbInputFlowNoise"])
    """Perturbations of the network's input: PerturbInputFlowNoise, PerturbInputFlowNoiseStd; none = off."""
    legacy_val: bool = False
    """Perturb the validation batches too, as the published code does."""
    flow_augmentation: list[str] | None = field(default_factory=lambda: ["globalmotion.QuadraticFullPT.light"])
    """Global motion added to the training flows: globalmotion.MODEL.light|medium|strong; none = off."""
    val_augment: bool = False
    """Augment the validation flows too."""
    unet: UNetOptions = field(default_factory=UNetOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data."""

    data_file: Path
    """Split prefix with its folder: NAME stands for NAME_train.csv and NAME_val.csv."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    img_size: list[int] = field(default_factory=lambda: [128, 224])
    """Rows and columns that flow and masks are resized to; flow values keep the unit of the original pixels."""
    batch_size: int = 10
    """Windows per batch and process."""
    boundaries: Boundaries = "Ignore"
    """Windows that reach over a sequence's end: left out (Strict, Ignore), or reflected (Periodic)."""
    subsample_train: float = 1.0
    """Share of the training windows to use."""
    num_workers: int = 0
    """Loader processes."""
    preload_cache: bool = False
    """Hold the resized flows in memory instead of mapping them from the disk."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the memory-mapped resized flows, shared by runs and workers."""
    max_bad_samples: int = 0
    """Unreadable flow files to leave out before giving up."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground."""
    seed: int = 123
    """Seed of the initialisation, the order, the augmentation and the perturbation."""


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
    """Folder of the predictions; default: in the run directory, predictions/ or predictions_<input>/."""
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


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """The chain."""

    test_file: Path | None = None
    """Split to predict and score; default: the _test split of --data_file, or its _val split when there is none."""
    flow: Literal["given", "dis", "dis_smooth", "raft"] = "given"
    """given: the split has a Flow column; else compute it first: by OpenCV's DIS, by DIS with longer refinement, or
    by RAFT."""
    flow_weights: Path | None = None
    """State dict of torchvision's raft_large for --flow raft; default: torch's cache or a download."""
    linking: Linking = "greedy"
    """Linking rule: greedy is the published one, hungarian never merges two segments."""
    cuts_size: int | None = 10
    """Windows that are linked with each other; None or -1 = the whole sequence."""
    foreground: Foreground | None = None
    """Segments that make the mask: optimax and optimax_exact look at the ground truth, exceptbiggest does not."""
    baseline: bool = True
    """Also score two baselines: a threshold on the flow without its global quadratic motion, and k-means on flow."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedDataOptions(DataOptions):
    """Data. Without --data_file the embedded clips are made and used."""

    data_file: Path | None = None  # type: ignore[assignment]
    """Split prefix with its folder: NAME stands for NAME_train.csv, NAME_val.csv, NAME_test.csv; none: embedded."""


def check_model_options(options: ModelOptions) -> None:
    """Refuse combinations that cannot work, each in one line.

    Raises:
        InputError: names the flag, the value and the remedy.
    """
    if len(options.flows_volume) != options.len_seq:
        count = len(options.flows_volume)
        raise InputError(f"--len_seq {options.len_seq}: --flows_volume lists {count} fields; give --len_seq {count}")
    if "Flow" not in options.inputs:
        raise InputError(f"--inputs {' '.join(options.inputs)}: must contain Flow, the field that is segmented")
    for request in [*options.inputs, *options.flows_volume]:
        if parse_request(request).column != "Flow":
            raise InputError(f"--inputs/--flows_volume: {request} is not a flow request such as Flow-1, Flow or Flow+1")
    if options.coherence_loss == "pieceFitScale" and options.v_distance.endswith("_normed_alt"):
        raise InputError(f"--v_distance {options.v_distance} is scaled already: use --coherence_loss pieceFit with it")
    if options.nAffineMasks < 1:
        raise InputError(f"--nAffineMasks {options.nAffineMasks}: give at least 1, usually 2 to 8")


INFERENCE_ALIASES = {
    "-md": "--model_dir",
    "-b": "--base_dir",
    "-cs": "--cuts_size",
    "--cut_size": "--cuts_size",
}


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """What is predicted, and with what."""

    model_dir: Path
    """Run directory, whose checkpoints/ hold the weights (ours or the authors'); the predictions go there too."""
    base_dir: Path
    """Folder that the paths in the splits are relative to."""
    data_file: list[str]
    """One or more splits: NAME (NAME_val.csv and NAME_train.csv are both predicted), NAME_val, or a CSV file."""
    extract_features: bool = False
    """Also write the features before the last convolution, ..._features.npy."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers on disk; float16 takes half the space."""
    one_file_per_sequence: bool = False
    """Put the windows of a sequence into one file, SEQUENCE_proba.npy (windows, L, T, rows, columns)."""
    overwrite: bool = False
    """Remove all predictions below --model_dir first; otherwise what stands is kept and the rest is added."""
    boundaries: Boundaries | None = None
    """Periodic also predicts windows centred on the first and last frame; default: as in training."""
    batch_size: int = 20
    """Windows per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the memory-mapped resized flows."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Whose predictions are worked on."""

    model_dir: Path
    """Folder that FeaturesPredExtraction.py wrote to; looked for as given, then below --base_dir."""
    base_dir: Path
    """Folder that the paths in the splits are relative to."""
    data_file: list[str]
    """One or more splits: NAME_val, a CSV file, or NAME for what has been predicted of NAME_val and NAME_train."""
    cuts_size: int | None = 10
    """Windows that are linked with each other; None or -1 = the whole sequence."""


EVALUATION_ALIASES = {
    "-sm": "--scoring_method",
    "-bm": "--binary_method",
    "-mi": "--model_id",
    "-df": "--data_file",
    "-dbd": "--data_base_dir",
    "-dbp": "--pred_base_dir",
    "-ps": "--pred_suffix",
    "-esn": "--eval_session_name",
}


@dataclass(frozen=True, kw_only=True)
class FrameEvaluationOptions:
    """What is scored, and how. The defaults are the published use."""

    data_file: Path
    """Split with its step, NAME_val, or a CSV file."""
    data_base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    pred_base_dir: Path = Path(".")
    """Folder of the predictions' folders."""
    model_id: str = ""
    """Folder below --pred_base_dir that holds the predictions, as FeaturesPredExtraction.py laid them out."""
    pred_suffix: str = "_seq_cs10binary_eval"
    """A prediction is the flow's path without suffix, this, and .npy; MaskSelection.py names its own by the GtMask."""
    binary_method: Literal["binarise_argmax", "optimax", "optimax_exact", "exceptbiggest", "fair"] = "binarise_argmax"
    """How layers become one mask; optimax, optimax_exact and fair look at the frame's ground truth."""
    scoring_method: Literal["db_eval_iou", "bbox_jacc"] | None = None
    """IoU, or IoU of the prediction's box; default: bbox_jacc where the split's name holds Moca, else db_eval_iou."""
    eval_session_name: str = ""
    """Folder below the predictions that the evaluation goes to."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground."""
    figure_every: int = 10
    """Frames between two figures; 0 = none."""
    strict: bool = False
    """Exit with an error when an annotated frame could not be scored."""

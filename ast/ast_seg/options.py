"""The options of both stages and of what follows them: one dataclass per idea, torch-free, so that ``--help`` is quick.

Names are those of the original's two configuration files, whose values for each published data set are the recipes in
``configs/``; ``--dataset NAME`` takes one of these as defaults.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.files import MaskEncoding

Scene = Literal["fixed", "lighting", "moving", "synthetic", "auto"]
Scenario = Literal["curriculum_training", "random_initialization", "frozen_weights"]
Maps = Literal["Unet", "Segformer"]
Palette = Literal["default", "seaborn"]
Rounding = Literal["trunc", "round"]
Cleaning = Literal["published", "none", "morphology", "median"]
BackgroundStart = Literal["random", "median"]
Aid = Literal["none", "foreground_hint", "component_hint", "mask_hint"]


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Frames."""

    data_file: Path | None = None
    """Split prefix with its folder: NAME stands for NAME_train.csv, NAME_val.csv and NAME_test.csv."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    train_dataset_path: Path | None = None
    """Instead of --data_file: folder of the training images, sub-folders included."""
    test_dataset_path: Path | None = None
    """Folder of the test images; default: the training images again."""
    GT_train_dataset_path: Path | None = None
    """Folder of label maps, one for each training image, paired in natural order; only scores look at them."""
    GT_test_dataset_path: Path | None = None
    """Folder of label maps of the test images."""
    image_height: int | None = None
    """Rows to resize the images to; default: their own."""
    image_width: int | None = None
    """Columns to resize the images to; default: their own."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are objects."""
    skip_bad: bool = False
    """Leave out images that cannot be read, instead of stopping at the first."""
    num_workers: int = 0
    """Loader processes."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the resized images as arrays, shared by runs and processes."""


@dataclass(frozen=True, kw_only=True)
class BackgroundOptions:
    """Background model and its loss."""

    background_complexity: bool = True
    """The wide networks, for backgrounds that vary; false for a fixed scene."""
    scene: Scene = "fixed"
    """Sets the updates: fixed 2500, lighting 10 000, moving at least 24 000 and 20 epochs, synthetic 500 000; auto
    trains the narrow networks first and decides by how much the backgrounds move."""
    unsupervised_mode: bool = False
    """The original's name of --scene auto."""
    n_iterations: int | None = None
    """Updates, whatever the scene."""
    batch_size: int = 128
    """Images per update and process."""
    learning_rate: float = 2e-3
    """AdamW's learning rate; a tenth of it in the last fifth of the updates."""
    weight_decay: float = 0.0
    """Weight decay."""
    beta: float = 6.0
    """How fast a pixel's weight falls with the errors around it."""
    input_offset: float = 0.0
    """Grey level that the encoder takes for zero. The published networks have 0 and are then blind to a change of the
    light: without biases, their first normalisation divides the brightness of an image away. 128 lets them see it."""
    background_start: BackgroundStart = "random"
    """Where the networks start: random is published; median: at the median image of the training frames and each
    pixel's median error against it, for fixed cameras."""
    beta_warmup: int = 0
    """Updates over which beta grows from 0: lets the networks learn the light first, before they become robust."""
    r: float = 75.0
    """The neighbourhood that weighs a pixel reaches image width / r pixels to either side."""
    tau_0: float = 0.24
    """Motion of the backgrounds from which on a scene needs the wide networks (--scene auto)."""
    tau_1: float = 0.25
    """Error, of a range 0..3, from which on a pixel counts as wrong."""
    alpha_1: float = 96 / 255
    """Foreground threshold as a share of the background's mean brightness."""
    alpha_2: float = 7.0
    """Predicted errors that a pixel may differ by before it is foreground."""
    n_eval: int = 2000
    """--scene auto: updates before the decision."""
    n_simple: int = 2500
    """--scene auto: updates of a simple scene, in all."""
    n_complex: int = 24000
    """--scene auto: least updates of a complex scene."""
    e_complex: int = 20
    """--scene auto: least epochs of a complex scene."""
    val_every: int = 500
    """Updates between two validations, at least one pass over the images; an epoch is what lies between them."""
    seed: int = 123
    """Seed of the initialisation and of the order."""


@dataclass(frozen=True, kw_only=True)
class BackgroundDatasetOptions:
    """What is written, and with which networks."""

    saved_model_path: Path
    """Run directory of background/train.py, or a checkpoint file, ours or the authors'."""
    results_dir_path: Path | None = None
    """Folder for the five folders of each part; default: background_dataset/ in the run directory."""
    rounding: Rounding = "round"
    """How values become bytes; trunc is the published way and half a level darker."""
    alpha_1: float | None = None
    """Foreground threshold as a share of the background's mean brightness; default: that of the training."""
    alpha_2: float | None = None
    """Predicted errors that a pixel may differ by before it is foreground; default: that of the training."""
    cleaning: Cleaning = "published"
    """Gaps and specks of the masks: published (morphology from 400 pixels a side on), none, morphology or median."""
    batch_size: int = 64
    """Images per batch and process."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class TripleOptions:
    """Images with their backgrounds."""

    data_file: Path | None = None
    """Split prefix with its folder, as step 2 writes it: NAME stands for NAME_train.csv and NAME_test.csv."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    train_dataset_input_path: Path | None = None
    """Instead of --data_file: folder of the training images."""
    train_dataset_background_path: Path | None = None
    """Folder of their backgrounds, RGB or RGBA, paired in natural order."""
    train_dataset_GT_mask_path: Path | None = None
    """Folder of their label maps; only scores look at them."""
    test_dataset_input_path: Path | None = None
    """Folder of the test images; default: the training images."""
    test_dataset_background_path: Path | None = None
    """Folder of their backgrounds."""
    test_dataset_GT_mask_path: Path | None = None
    """Folder of their label maps."""
    image_height: int | None = None
    """Rows to resize the images to; default: their own."""
    image_width: int | None = None
    """Columns to resize the images to; default: their own."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are objects."""
    skip_bad: bool = False
    """Leave out images that cannot be read, instead of stopping at the first."""
    num_workers: int = 0
    """Loader processes."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the resized images as arrays, shared by runs and processes."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Foreground model."""

    max_set_size: int = 10
    """Number of slots K: no image may hold more objects."""
    z_what_dim: int = 32
    """Size Z of a slot's appearance."""
    max_scaling_factor: float = 24.0
    """Smallest objects: an image side divided by this."""
    min_scaling_factor: float = 1.3
    """Largest objects."""
    isotropic_scaling: bool = False
    """Objects keep their aspect: one scale for both axes."""
    feature_map_generator_name: Maps = "Unet"
    """Unet, or Segformer (the second paper's)."""
    pretrained_backbone_weights_reference: str = "none"
    """Segformer: folder of weights, name on the Hugging Face hub such as nvidia/mit-b3, or none for random ones."""
    segformer_architecture: str = "mit-b3"
    """Segformer without pretrained weights: mit-b0 ... mit-b5."""
    imagenet_norm: bool = False
    """Segformer: normalise images as its pretraining did; off in the published models."""
    unet_widths: list[int] | None = None
    """Unet: channels at full resolution and after each halving; default: the published ones for the image size."""
    unet_normalisation: Literal["batch", "group"] = "batch"
    """Unet: batch is published; group depends neither on batch size nor on the number of processes."""
    transformer_dim: int = 256
    """Width of the slot transformer."""
    transformer_nhead: int = 8
    """Its attention heads."""
    transformer_nlayers: int = 6
    """Its layers."""
    transformer_dim_feedforward: int = 512
    """Its inner width."""
    transformer_dropout: float = 0.1
    """Its dropout."""
    initial_background_activation_logit: float = 11.0
    """Activation that the background starts with; slots start far below it."""
    variable_background_activation: bool = False
    """Learn the background's activation per pixel."""
    legacy_isotropic_activation: bool = True
    """Isotropic models read a slot's activation from its first appearance latent, as the published ones do."""
    exact_coordinates: bool = False
    """Pool positions in the renderer's coordinates instead of the published ones, which are slightly wider."""
    background_model_training_scenario: Scenario = "curriculum_training"
    """curriculum_training: stored backgrounds first, then the background networks train along; random_initialization:
    they train along from scratch; frozen_weights: stored backgrounds to the end."""
    background_model: Path | None = None
    """Run directory or checkpoint of the background stage; needed for curriculum_training."""
    background_complexity: bool = True
    """random_initialization: wide background networks."""


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Loss and schedule of the foreground model."""

    batch_size: int = 64
    """Images per update and process."""
    learning_rate: float = 4e-5
    """Adam's learning rate after the warm-up; a tenth of it in the last tenth of the updates."""
    object_detection_weight_decay: float = 0.0
    """Weight decay."""
    number_of_training_steps: int = 125000
    """Updates."""
    warmup: int = 5000
    """Updates until the learning rate is reached, quadratically."""
    pixel_entropy_loss_weight: float = 1e-2
    """Weight of the pixel entropy."""
    pixel_entropy_loss_full_activation_step: int = 10000
    """Updates until the entropy losses have their full weight, quadratically."""
    background_weights_freeze_duration: int = 30000
    """curriculum_training: updates on stored backgrounds."""
    paper_version: Literal[1, 2] = 2
    """1: thresholded reconstruction and object entropy of the first version of the paper."""
    real_world_video: bool = False
    """Version 1: threshold 0.10, slower object entropy."""
    fixed_background: bool = False
    """Version 1: threshold 0.02 instead of 0.21."""
    startup_aid: Aid = "none"
    """Helps slots to get started: foreground_hint pulls them onto what differs from the background, component_hint also
    gives each connected piece of it to one slot; mask_hint does so with the masks of step 2, for small objects in real
    videos; none is published."""
    startup_lambda: float = 1.0
    """Weight of the aid at the first update; it falls linearly."""
    startup_steps: int = 1000
    """Updates until the aid is gone."""
    restart_if_inactive: int = 0
    """Start again with other weights when no slot shows after so many updates (as version 1 did); 0 = only warn."""
    val_every: int = 500
    """Updates between two validations, at least one pass over the images; an epoch is what lies between them."""
    seed: int = 123
    """Seed of the initialisation, the order and the dropout."""


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """The chain. Without data: the embedded fixed-camera clip."""

    input: Path | None = field(default=None, metadata={"positional": True})
    """A video, a folder of images, or a .csv split; or give --data_file; neither: embedded data."""
    data_file: Path | None = None
    """Split prefix with its folder: NAME stands for NAME_train.csv, NAME_val.csv and NAME_test.csv."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    image_height: int | None = None
    """Rows to work at; default: those of the images. Label maps are written at the images' own size."""
    image_width: int | None = None
    """Columns to work at."""
    objects_height: int | None = None
    """Rows that the slots work at, where that is less than the background stage's; frozen_weights only."""
    objects_width: int | None = None
    """Columns that the slots work at."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are objects."""
    cleaning: Cleaning = "published"
    """Gaps and specks of the background masks: published, none, morphology or median."""
    rounding: Rounding = "round"
    """How backgrounds become bytes; trunc is the published way."""
    background_only: bool = False
    """Stop after step 2: backgrounds and their masks, scored beside subtractors that need no training."""
    embedded_frames: int = 240
    """Embedded data: frames of the clip."""
    num_workers: int = 0
    """Loader processes."""
    cache_dir: Path = Path("runs/cache")
    """Folder of the resized images as arrays, shared by runs and processes."""
    background: BackgroundOptions = field(default_factory=BackgroundOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    loss: LossOptions = field(default_factory=LossOptions)


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """What is segmented, and with what."""

    input: Path | None = field(default=None, metadata={"positional": True})
    """A picture, a folder of pictures, a video or a .csv split; or give --data_file or the test_ folders."""
    object_model_checkpoint_path: Path
    """Run directory of MF_train.py, or a checkpoint file, ours or the authors'."""
    results_dir_path: Path | None = None
    """Folder of the output; default: in the run directory, predictions/ or predictions_<input>/."""
    data_file: Path | None = None
    """Data split (CSV file) with Image and, for frozen backgrounds, Background."""
    base_dir: Path | None = None
    """Folder that the paths in the split are relative to; default: the split's own folder."""
    test_dataset_input_path: Path | None = None
    """Folder of images."""
    test_dataset_background_path: Path | None = None
    """Folder of their backgrounds, paired in natural order."""
    test_dataset_GT_mask_path: Path | None = None
    """Folder of their label maps."""
    background_model: Path | None = None
    """Networks to draw backgrounds with, where neither the checkpoint nor the split has them."""
    image_height: int | None = None
    """Rows to work at; default: those of the training. Label maps are written at the images' own size."""
    image_width: int | None = None
    """Columns to work at."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are objects."""
    batch_size: int = 32
    """Images per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written besides the label maps."""

    latents: bool = True
    """Write each slot's place, scale, activation, box and appearance to latents.csv."""
    layers: bool = False
    """Write each image's soft weights and object layers as .npz."""
    overlay: bool = True
    """Write an overlay video per clip, or a picture per single image."""
    stable_slots: bool = True
    """In clips, number objects so that one keeps its colour from frame to frame."""
    color_palette: Palette = "default"
    """Colours of the label maps and of the sample grid."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How it is scored."""

    legacy_eval: bool = False
    """Score batches without any object as the published code does: error of the batch, zeros for the rest."""

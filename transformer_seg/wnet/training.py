"""Training of WNet from options."""

from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl

from common.callbacks import CollapseWatch
from common.errors import InputError
from common.messages import tell
from common.options import TrainerFlags
from common.training import fit, seed_everything
from transformer_seg.embedded import with_embedded_scenes
from transformer_seg.images import ImageDataModule
from transformer_seg.options import SystemRunOptions, check_numbers
from transformer_seg.saving import EpochLog, WeightsFile
from transformer_seg.wnet.data import WnetTransforms
from transformer_seg.wnet.module import WnetModule
from transformer_seg.wnet.options import WnetDataOptions, WnetOptions, check_wnet
from transformer_seg.wnet.restore import load_weights
from transformer_seg.wnet.revival import Revival
from transformer_seg.wnet.starts import Starts

LOG_NAMES = {
    "train/loss": "train_loss",
    "train/ncut": "train_ncut",
    "train/reconstruction": "train_reconstruction",
    "train/learning_rate": "train_learning_rate",
    "val/loss": "val_loss",
    "val/miou": "val_matched_mean_iou",
}
SCENES = (24, 8, 16)  # training, validation and test scenes when no data is named


def train(model: WnetOptions, data: WnetDataOptions, run: SystemRunOptions, flags: TrainerFlags) -> pl.Trainer:
    """Train from options; see ``common.training.fit`` for what the run directory holds.

    Raises:
        InputError: options or data that cannot be trained on.
    """
    run = replace(run, out=run.out or Path("runs/wnet"))
    assert run.out is not None
    check_numbers(data)
    check_wnet(model, data)
    if model.pretrained and run.ckpt_path is None:
        raise InputError("--pretrained: WNet has no ImageNet weights; name a file with --ckpt_path (or --weights)")
    if model.starts > 1 and run.ckpt_path is not None:
        raise InputError(f"--starts {model.starts}: the weights come from --ckpt_path already; give --starts 1")
    if model.schedule == "steps":
        tell(f"the learning rate falls below a hundred millionth of its start at iteration {8 * model.decay_every}")
    data = with_embedded_scenes(data, run.out, data.image_size, SCENES)
    seed_everything(data.seed)
    module = WnetModule(model, data.image_size)
    if run.ckpt_path is not None and not run.resume:
        load_weights(module, run.ckpt_path)
    datamodule = ImageDataModule(data, WnetTransforms(data))
    datamodule.prepare("train", "val")
    advice = "the cut has collapsed; try --ncut exact, a lower --learning_rate or --revive_every 20"
    callbacks: list[pl.Callback] = [CollapseWatch("train/segments", 1.1, 3, advice)]
    if model.starts > 1:
        callbacks.append(
            Starts(
                datamodule.images["train"],
                model.starts,
                model.start_iterations,
                batch_size=data.batch_size,
                seed=data.seed,
                revive_every=model.revive_every,
                record=run.out / "starts.json",
            )
        )
    if model.revive_every:
        callbacks.append(Revival(model.revive_every, module.kernel))
    if run.save_logs:
        callbacks.append(EpochLog(run.out / "log.txt", LOG_NAMES))
    if run.save_model:
        callbacks.append(WeightsFile(run.out / "checkpoint.pth", lambda _: module.model.state_dict()))
    return fit(
        module,
        datamodule,
        run=run,
        flags=flags,
        options=(model, data),
        callbacks=callbacks,
        facts={"method": "wnet", "seed": data.seed, "split_hash": datamodule.split_hash()},
    )

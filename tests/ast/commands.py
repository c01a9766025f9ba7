"""AST's commands in this process, and tiny data for them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from common.synthetic import FixedCameraOptions
from common.synthetic import run as make_data

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--enable_model_summary", "false", "--enable_progress_bar", "false", "--accelerator", "cpu"]
TINY_BACKGROUND = ["--background_complexity", "false", "--n_iterations", "4", "--batch_size", "4", "--val_every", "2"]
TINY_MODEL = [
    *("--max_set_size", "3", "--z_what_dim", "4", "--max_scaling_factor", "8", "--unet_widths", "8", "16"),
    *("--transformer_dim", "16", "--transformer_nhead", "2", "--transformer_nlayers", "1"),
    *("--transformer_dim_feedforward", "16"),
]
TINY_LOSS = [
    *("--number_of_training_steps", "4", "--warmup", "2", "--pixel_entropy_loss_full_activation_step", "2"),
    *("--batch_size", "4", "--val_every", "2", "--learning_rate", "1e-3"),
]
FROZEN = ["--background_model_training_scenario", "frozen_weights"]


def script(name: str) -> ModuleType:
    """A command's file as a module."""
    file = ROOT / "ast" / name
    spec = importlib.util.spec_from_file_location(f"ast_command_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # options are looked up by their module's name
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: object) -> None:
    """Run a command, which must succeed."""
    assert script(name).main([str(argument) for argument in arguments]) == 0


def fails(capsys: pytest.CaptureFixture[str], name: str, *arguments: object) -> str:
    """Run a command, which must end with exit code 2; its one line."""
    capsys.readouterr()
    assert script(name).main([str(argument) for argument in arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def make_clip(folder: Path, num_frames: int = 10, height: int = 32, width: int = 40, **options: object) -> Path:
    """An embedded clip; the prefix of its split."""
    make_data(FixedCameraOptions(out=folder, num_frames=num_frames, height=height, width=width, **options))  # type: ignore[arg-type]
    return folder / "fixed_camera"

"""The pages' own commands, one after the other, in a copy of the project with a stranger's files beside it.

A command is run unless it names data, weights or a machine that a test has not: words in capitals, published files,
several GPUs, a login (`tests.pages.runnable`). Trainings are cut short, nothing else is changed.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.files import write_image, write_labels
from common.video import VideoWriter
from tests.pages import PAGES, ROOT, runnable

SIZE = (40, 56)
AST = (
    "--background.n_iterations 4 --background.val_every 4 --loss.number_of_training_steps 4 --loss.startup_steps 2"
    " --loss.val_every 4 --loss.warmup 1 --loss.pixel_entropy_loss_full_activation_step 2"
)
REDO = "--nIteration 4 --checkpointFreq 2 --nTest 2 --autoRestart 0 --stuckError 0"
SMALL = "--image_height 48 --image_width 64"
STFLOW = "--max_epochs 1 --img_size 16 24 --unet.num_layers 2"
BENCH = "--tiny --repeats 1 --only stflow_index"
WNET = "--max_steps 2 --starts 1"
# What cuts a training short, by the beginning of the command; the longest one that fits is taken.
SHORT = {
    "make train-ast": f"ARGS='{AST} --embedded_frames 8'",
    "make train-redo": f"ARGS='{REDO}'",
    "make train-redo SPLIT": f"ARGS='{REDO} --sizex 32 --nz 2 --nf 4 --nResM 1 --batchSize 4'",
    "make train-stflow": f"ARGS='{STFLOW}'",
    "make train-maskdistill": "ARGS='--solver.max_iter 2 --segmentation.epochs 1 --linear.epochs 1 --threshold 0"
    " --detector.score_threshold 0 --semantic.image_px 32 --masks.resize 128'",
    "make train-transformer-seg": f"ARGS='{WNET}'",
    "make train-transformer-seg MODEL=segmenter": "ARGS='--max_steps 2 --warmup 1'",
    "make train-transformer-seg MODEL=dino": "ARGS='--epochs 1 --warmup_epochs 0'",
    "make train-transformer-seg MODEL=segmenter SPLIT": "ARGS='--max_steps 2 --warmup 1 --arch custom --patch_size 8"
    " --embed_dim 64 --depth 1 --heads 1 --image_size 32 --crop_size 32'",
    "make segment INPUT=clip.mp4 METHOD=stflow": f"ARGS='{STFLOW}'",
    "make segment INPUT=street.avi METHOD=ast": f"ARGS='{AST} {SMALL} --objects_height 48 --objects_width 64'",
    "make segment INPUT=photos METHOD=wnet": f"ARGS='{WNET} --image_size 32 --predict_size 32'",
    "make segment INPUT=data/mine_test.csv METHOD=wnet": f"ARGS='{WNET} --image_size 32 --predict_size 32'",
    "python ast/run.py street.avi": f"{AST} {SMALL} --objects_height 48 --objects_width 64",
    "python stflow/run.py": STFLOW,
    "python redo/run.py": REDO,
    "python maskdistill/train_mask_rcnn.py": "--max_iter 2",
    "python common/synthetic.py scenes": "--num 12 --num_val 4",
    "make bench": f"ARGS='{BENCH}'",
    "python benchmarks/run.py": BENCH,
    "python benchmarks/stflow_size.py": "--sizes 16x24 --masks 2 --features_start 4 --repeats 1",
}
NOT_HERE = {"make test"}  # it would run this test again
LOOPS = {"$step": "for step in train val; do {}; done"}
WALKED = sorted({str(page.relative_to(ROOT)) for page in PAGES if runnable(str(page.relative_to(ROOT)))})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The project without what git ignores, and a stranger's clips, photos and masks."""
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", ".*_cache", "__pycache__", "api", "*.egg-info")
    place = shutil.copytree(ROOT, tmp_path / "unseg", ignore=ignored)
    (place / ".venv").symlink_to(ROOT / ".venv")
    frames = []
    for number in range(20):
        ground = np.linspace(40, 120, SIZE[1])[None, :, None] + np.zeros((*SIZE, 3))
        mask = np.zeros(SIZE, np.int64)
        window = (slice(12, 24), slice(2 + 2 * number, 16 + 2 * number))
        ground[window], mask[window] = (230, 80, 30), 255
        frames.append(ground.astype(np.uint8))
        for folder in ("photos", "pictures", "my/pictures"):
            write_image(place / folder / f"{number:02d}.jpg", frames[-1])
        write_labels(place / "masks" / f"{number:02d}.png", mask)
        write_labels(place / "classes" / f"{number:02d}.png", np.where(mask > 0, 1 + number % 2, 0))
    write_image(place / "photo.jpg", frames[0])
    for number, file in enumerate(("clip.mp4", *(f"clips/{number}.mp4" for number in range(5)))):
        (place / file).parent.mkdir(exist_ok=True)
        with VideoWriter(place / file, 8) as video:
            for frame in frames[:8]:
                video.write(frame + np.uint8(4 * number))  # no two clips share a picture
    street = cv2.VideoWriter(str(place / "street.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 8, SIZE[::-1])
    for frame in frames[:10]:
        street.write(frame[..., ::-1])
    street.release()
    return place


def as_run(command: str) -> str:
    """A command with its training cut short, on the CPU, by an environment that stands."""
    fitting = [start for start in SHORT if command.startswith(start)]
    short = f"{command} {SHORT[max(fitting, key=len)]}" if fitting else command
    short = re.sub(r"(GPUS=|--gpus )\S+", r"\g<1>0", short)
    for variable, loop in LOOPS.items():
        short = loop.format(short) if variable in short else short
    return re.sub(r"^make ", "make --assume-old=.venv/.ready ", short)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", WALKED)
def test_the_commands_of_a_page_run_as_they_stand(page: str, place: Path) -> None:
    environment = os.environ | {
        "PATH": os.pathsep.join([str(place / ".venv" / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(place), str(place / "ast")]),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    for command in runnable(page):
        if command in NOT_HERE:
            continue
        done = subprocess.run(
            ["bash", "-c", as_run(command)],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        said = done.stdout[-1500:] + done.stderr[-1500:]
        assert done.returncode == 0, f"{page}: {command}\nrun as: {as_run(command)}\n{said}"
        assert "Traceback" not in done.stderr, f"{page}: {command}\n{said}"


def test_every_shortening_has_its_command() -> None:
    shown = [command for page in WALKED for command in runnable(page)]
    assert not [start for start in SHORT if not any(command.startswith(start) for command in shown)]
    assert set(shown) >= NOT_HERE

"""Do slots start, seed by seed? The embedded recipe on the specification's synthetic set: one line of scores per seed.

    python tests/ast/startup_seeds.py --seeds 0 1 2 --backgrounds given
    python tests/ast/startup_seeds.py --seeds 0 1 2 --backgrounds learnt     # all steps, the background stage included

The set is ``make(512, 32, seed, kmin=1, kmax=3)`` of golden/ast/synthetic_recipe.py; scored are the first 64
frames, as there. ``--aid none`` is the published recipe at this size.
"""

import argparse
import importlib.util
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ast_seg.chain import apply_options, named_frames, triples
from ast_seg.evaluation import evaluate_model
from ast_seg.options import ChainOptions, EvaluationOptions
from common import cli
from common.files import write_image, write_labels
from common.options import RunOptions, TrainerFlags
from common.splits import write_split
from tests.golden import SHARED

ROOT = Path(__file__).resolve().parents[2]
NUM_SCORED = 64
BARS = {"msc_fg_image": 0.25, "ari_image": 0.35}


def synthetic_recipe() -> ModuleType:
    """The generator of the specification's set."""
    file = SHARED / "golden" / "ast" / "synthetic_recipe.py"
    spec = importlib.util.spec_from_file_location("synthetic_recipe", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_set(folder: Path, num: int, size: int, seed: int, **options: Any) -> Path:
    """Images, labels and true backgrounds as a split; gives its prefix. The test split is the first 64 frames."""
    images, labels, backgrounds = synthetic_recipe().make(num, size, seed, **options)
    rows = []
    for index, (image, target, background) in enumerate(zip(images, labels, backgrounds, strict=True)):
        names = {name: f"{name}/{index:04d}.png" for name in ("Image", "GtInstance", "Background")}
        write_image(folder / names["Image"], image)
        write_labels(folder / names["GtInstance"], target.astype(np.int64))
        write_image(folder / names["Background"], background)
        rows.append({"Sequence": "made", "Sequence_Index": str(index), **names})
    for step, part in (("train", rows), ("val", rows[:NUM_SCORED]), ("test", rows[:NUM_SCORED])):
        write_split(folder / f"made_{step}.csv", part)
    return folder / "made"


def recipe(*more: str) -> ChainOptions:
    """The embedded recipe."""
    config = ["--config", str(ROOT / "ast" / "configs" / "embedded.yaml"), *more]
    chain, _, _ = cli.parse((ChainOptions, RunOptions, TrainerFlags), config)
    return chain


def trained_scores(
    chain: ChainOptions, prefix: Path, out: Path, *, learnt: bool, flags: TrainerFlags
) -> dict[str, float]:
    """Train on a set with given or learnt backgrounds; the scores of its test split."""
    from ast_seg.background_dataset import generate
    from ast_seg.background_training import train_background
    from ast_seg.foreground_training import train_foreground
    from ast_seg.options import BackgroundDatasetOptions

    chain = replace(chain, data_file=prefix, base_dir=prefix.parent, cache_dir=out / "cache")
    run = RunOptions(out=out / "run")
    found: dict[str, float] = {}
    if learnt:
        frames = named_frames(chain, out)
        train_background(chain.background, frames, replace(run, out=out / "background"), flags)
        prefix = generate(BackgroundDatasetOptions(saved_model_path=out / "background"), frames, flags)
        from ast_seg.background_scores import score_masks
        from common.splits import read_split

        masks = score_masks(read_split(f"{prefix}_test.csv", base_dir=prefix.parent), "auto")
        found["f_background"] = masks[0].value
    train_foreground(chain.model, chain.loss, triples(chain, prefix), run, flags)
    options = apply_options(chain, out / "run", prefix, run)
    scores, _ = evaluate_model(options, EvaluationOptions(), out / "run")
    return found | {score.name: score.value for score in scores}


def main() -> None:
    """Print a line per seed, and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--backgrounds", choices=["given", "learnt"], default="given")
    parser.add_argument("--aid", default="component_hint")
    parser.add_argument("--updates", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/startup"))
    arguments = parser.parse_args()
    chain = recipe(f"--loss.startup_aid={arguments.aid}", "--loss.val_every=600")
    if arguments.updates:
        share = chain.loss.startup_steps / chain.loss.number_of_training_steps
        shorter = {"number_of_training_steps": arguments.updates, "startup_steps": round(share * arguments.updates)}
        chain = replace(chain, loss=replace(chain.loss, **shorter))
    flags = TrainerFlags(enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    values = []
    for seed in arguments.seeds:
        out = arguments.out / f"{arguments.backgrounds}_{arguments.aid}_{seed}"
        shutil.rmtree(out, ignore_errors=True)
        prefix = write_set(out / "data", 512, 32, seed, kmin=1, kmax=3)
        start = time.process_time()
        seeded = replace(chain, loss=replace(chain.loss, seed=seed), background=replace(chain.background, seed=seed))
        found = trained_scores(seeded, prefix, out, learnt=arguments.backgrounds == "learnt", flags=flags)
        values.append(found["msc_fg_image"])
        reached = all(found[name] >= bar for name, bar in BARS.items())
        shown = "  ".join(
            f"{name} {value:.3f}" for name, value in found.items() if "sc" not in name or "msc_fg" in name
        )
        print(
            f"seed {seed}: {'reached' if reached else 'MISSED '}  {shown}  {time.process_time() - start:.0f} CPU s",
            flush=True,
        )
        shutil.rmtree(out)
    print(f"median msc_fg {np.median(values):.3f}, least {min(values):.3f}")


if __name__ == "__main__":
    main()

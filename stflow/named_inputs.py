"""What the commands of the inference are given: a model folder and names of splits."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.messages import tell
from common.splits import STEPS, Split, read_split
from stflow.options import SequenceOptions
from stflow.sequence_files import flow_sequences, is_predicted

PREFIX_STEPS = ("val", "train")  # a name without a step stands for both, in the published order


def find_model_dir(model_dir: Path, base_dir: Path) -> Path:
    """A folder as given or, when there is none, below ``base_dir``; says so then.

    Raises:
        InputError: neither is there.
    """
    if model_dir.is_dir():
        return model_dir
    if (base_dir / model_dir).is_dir():
        tell(f"--model_dir: using {base_dir / model_dir}, below --base_dir")
        return base_dir / model_dir
    raise InputError(f"--model_dir {model_dir}: no such folder, nor {base_dir / model_dir}")


def read_splits(data_files: Sequence[str | Path], base_dir: Path, *steps: str) -> list[Split]:
    """Splits from CSV files, from names with their step, or from names that stand for several steps.

    Of a name without a step, files that are missing or hold no row are left out, with a line that says so.

    Raises:
        InputError: nothing to read.
    """
    splits: list[Split] = []
    for name in map(Path, data_files):
        if name.suffix == ".csv" or Path(f"{name}.csv").is_file():
            splits.append(read_split(name, base_dir=base_dir))
            continue
        present = [step for step in steps or PREFIX_STEPS if Path(f"{name}_{step}.csv").is_file()]
        present = present or [step for step in STEPS if Path(f"{name}_{step}.csv").is_file()]
        if not present:
            read_split(name, PREFIX_STEPS[0], base_dir)  # raises, and names what is there
        for step in present:
            if len(present) > 1 and len(Path(f"{name}_{step}.csv").read_text("utf-8-sig").split()) < 2:
                tell(f"{name}_{step}.csv: no rows, left out")
            else:
                splits.append(read_split(name, step, base_dir))
    return splits


def predicted_splits(options: SequenceOptions, folder: Path) -> list[Split]:
    """The splits of a command that works on predictions; of a name without a step, those that have been predicted.

    Raises:
        InputError: nothing has been predicted.
    """
    splits = read_splits(options.data_file, options.base_dir)
    kept = []
    for split in splits:
        named = any(Path(name).name.removesuffix(".csv") == split.name for name in options.data_file)
        if named or any(is_predicted(folder, sequence) for sequence in flow_sequences(split).values()):
            kept.append(split)
        else:
            tell(f"{split.file}: not predicted below {folder}, left out")
    if not kept:
        raise InputError(f"{folder}: no predictions of {options.data_file[0]}; run FeaturesPredExtraction.py first")
    return kept

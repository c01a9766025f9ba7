"""The whole of stflow in one command: data or video -> flow -> train -> predict -> evaluate -> report.

    python stflow/run.py                                    # embedded clips
    python stflow/run.py --data_file NAME --base_dir DATA   # NAME_train.csv, NAME_val.csv, NAME_test.csv
    python stflow/run.py --config stflow/configs/davis_sample.yaml --base_dir DATA

Each step leaves its files in the run directory and is left out when they stand already, so the same command with
``--resume`` goes on where it was stopped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import cli
from common.options import RunOptions, TrainerFlags
from stflow.options import ALIASES, DataOptions, Foreground, Linking, ModelOptions


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """The chain."""

    test_file: Path | None = None
    """Split to predict and score; default: the _test split of --data_file, or its _val split when there is none."""
    flow: Literal["given", "dis"] = "given"
    """given: the split has a Flow column; dis: compute what is missing with OpenCV's DIS first."""
    linking: Linking = "greedy"
    """Linking rule: greedy is the published one, hungarian never merges two segments."""
    cuts_size: int | None = 10
    """Windows that are linked with each other; None or -1 = the whole sequence."""
    foreground: Foreground | None = None
    """Segments that make the mask: optimax and optimax_exact look at the ground truth, exceptbiggest does not."""
    baseline: bool = True
    """Also score the linear baseline: threshold on the flow without the global quadratic motion."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedDataOptions(DataOptions):
    """Data. Without --data_file the embedded clips are made and used."""

    data_file: Path | None = None  # type: ignore[assignment]
    """Split prefix with its folder: NAME stands for NAME_train.csv, NAME_val.csv, NAME_test.csv; none: embedded."""


def run_chain(
    chain: ChainOptions, model: ModelOptions, data: EmbeddedDataOptions, run: RunOptions, flags: TrainerFlags
) -> int:
    """Train on the data, predict the test split, score it and write a report; without data, on embedded clips."""
    from stflow.chain import run_all

    return run_all(chain, model, data, run, flags)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (ChainOptions, ModelOptions, EmbeddedDataOptions, RunOptions, TrainerFlags)
    return cli.command(run_chain, *classes, argv=argv, aliases=ALIASES, prog="run.py")


if __name__ == "__main__":
    raise SystemExit(main())

"""The whole of stflow in one command: data or video -> flow -> train -> predict -> evaluate -> report.

    python stflow/run.py                                    # embedded clips
    python stflow/run.py --data_file NAME --base_dir DATA   # NAME_train.csv, NAME_val.csv, NAME_test.csv
    python stflow/run.py --config stflow/configs/davis_sample.yaml --base_dir DATA

Each step leaves its files in the run directory and is left out when they stand already, so the same command with
``--resume`` goes on where it was stopped.
"""

from common import cli
from common.options import RunOptions, TrainerFlags
from stflow.options import ALIASES, ChainOptions, EmbeddedDataOptions, ModelOptions


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

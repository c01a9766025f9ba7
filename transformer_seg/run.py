"""The whole of one system in one command: data -> train -> predict -> evaluate -> report.

    python transformer_seg/run.py --model=wnet                                    # embedded data
    python transformer_seg/run.py --model=wnet --data_file NAME --base_dir DATA   # NAME_train.csv, NAME_val.csv ...

Each step leaves its files in the run directory and is left out when they stand already, so the same command with
``--resume`` goes on where it was stopped.
"""

import importlib
import sys
from collections.abc import Sequence

from common import cli
from common.options import TrainerFlags
from transformer_seg.options import SystemRunOptions, aliases_of, check_devices, chosen_model, option_class

ABOUT = {
    "wnet": "Train WNet, segment the test split, refine it with a dense CRF, score it and write a report.",
    "segmenter": "Train Segmenter, segment the test split in sliding windows, score it and write a report.",
    "dino": "Train DINO, take masks from its attention, score them and write a report.",
}
PARTS = ("ChainOptions", "Options", "DataOptions")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return cli.guarded(lambda: _run(arguments))


def _run(argv: list[str]) -> int:
    name = chosen_model(argv, "run.py")
    if name is None:
        return cli.DONE
    classes = [option_class(name, part) for part in PARTS] + [SystemRunOptions, TrainerFlags]
    options = cli.parse(classes, argv, aliases_of(name), f"run.py --model {name}", ABOUT[name])
    check_devices(*options[-2:])
    chain = importlib.import_module(f"transformer_seg.{name}.chain")
    return chain.run_chain(*options)


if __name__ == "__main__":
    raise SystemExit(main())

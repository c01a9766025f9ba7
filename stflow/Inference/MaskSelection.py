"""Choose the segments that make the foreground, by the ground truth, once per chunk of linked windows.

    python stflow/Inference/MaskSelection.py --model_dir runs/stflow -b DATA --data_file DataSplit/NAME_val -cs 10

Needs the files of ``LinkPredictions.py``. Scores of these masks are those of an oracle: they say how well the best
union of segments fits, not how well a method without ground truth would choose it.
"""

from dataclasses import dataclass
from typing import Literal

from common import cli
from stflow.options import INFERENCE_ALIASES, MaskEncoding, SequenceOptions


@dataclass(frozen=True, kw_only=True)
class SelectionOptions(SequenceOptions):
    """Whose labels are chosen from, and how."""

    selection: Literal["optimax", "optimax_exact"] = "optimax"
    """optimax adds one label after the other, as published; optimax_exact finds the best union."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground."""


def run(options: SelectionOptions) -> int:
    """Write background and foreground (2, rows, columns) of every annotated frame, <GtMask>_seq_cs10binary_eval.npy."""
    from stflow.pipeline import select_masks

    select_masks(options, options.selection, options.mask_encoding)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, SelectionOptions, argv=argv, aliases=INFERENCE_ALIASES, prog="MaskSelection.py")


if __name__ == "__main__":
    raise SystemExit(main())

"""Link the windows of every sequence, so that segments keep their labels: ``<sequence>_cs<cuts_size>_labelseq.npy``.

    python stflow/Inference/LinkPredictions.py --model_dir runs/stflow -b DATA --data_file DataSplit/NAME_val -cs 10

Needs the files of ``FeaturesPredExtraction.py``; ``MaskSelection.py`` or ``ProbaMultiMask.py`` come next.
"""

from dataclasses import dataclass

from common import cli
from stflow.options import INFERENCE_ALIASES, Linking, SequenceOptions


@dataclass(frozen=True, kw_only=True)
class LinkOptions(SequenceOptions):
    """Whose predictions are linked, and how."""

    linking: Linking = "greedy"
    """Linking rule: greedy is the published one, hungarian never merges two segments."""
    legacy_float16: bool = False
    """Round probabilities to half precision before the largest is taken, as the published code does."""


def run(options: LinkOptions) -> int:
    """Write the linked labels (windows, T, rows, columns), int64, of every sequence of the splits."""
    from stflow.pipeline import link_predictions

    link_predictions(options, options.linking, options.legacy_float16)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, LinkOptions, argv=argv, aliases=INFERENCE_ALIASES, prog="LinkPredictions.py")


if __name__ == "__main__":
    raise SystemExit(main())

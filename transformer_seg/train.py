"""Train WNet, Segmenter or DINO.

python transformer_seg/train.py --model=segmenter --batch-size=16 --epochs=30 --learning-rate=0.001 --pretrained
python transformer_seg/train.py --model=wnet --data_file DataSplit/NAME --base_dir DATA --out runs/wnet

The options depend on the model: ``train.py --model=wnet --help`` shows those of WNet.
"""

import importlib
import sys
from collections.abc import Sequence

from common import cli
from common.options import TrainerFlags
from transformer_seg.options import SystemRunOptions, aliases_of, check_devices, chosen_model, option_class

ABOUT = {
    "wnet": "Train WNet: two U-Nets, a soft normalised cut and a reconstruction, without any annotation.",
    "segmenter": "Train Segmenter: a vision transformer with a linear or mask-transformer decoder, supervised.",
    "dino": "Train DINO: self-distillation of a vision transformer, without any annotation.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return cli.guarded(lambda: _train(arguments))


def _train(argv: list[str]) -> int:
    name = chosen_model(argv, "train.py")
    if name is None:
        return cli.DONE
    classes = [option_class(name, "Options"), option_class(name, "DataOptions"), SystemRunOptions, TrainerFlags]
    model, data, run, flags = cli.parse(classes, argv, aliases_of(name), f"train.py --model {name}", ABOUT[name])
    check_devices(run, flags)
    training = importlib.import_module(f"transformer_seg.{name}.training")
    training.train(model, data, run, flags)
    return cli.DONE


if __name__ == "__main__":
    raise SystemExit(main())

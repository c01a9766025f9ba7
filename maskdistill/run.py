"""The whole of MaskDistill in one command: images -> masks -> clusters -> Mask R-CNN -> label maps -> DeepLab -> CRF.

    python maskdistill/run.py --config maskdistill/configs/embedded.yaml      # embedded scenes
    python maskdistill/run.py PICTURES --num_clusters 8 --masks.weights dino_deitsmall16_pretrain.pth ...
    python maskdistill/run.py --data_file NAME --base_dir DATA                # NAME_train.csv, NAME_val.csv
    python maskdistill/run.py --dataset VOC --dataset_root VOC

Each stage leaves its files in the run directory; the same command with ``--resume`` goes on where it was stopped.
"""

from common import cli
from common.options import RunOptions, TrainerFlags
from maskdistill.chain_options import ChainDataOptions, ChainOptions, StageOptions


def run_chain(
    chain: ChainOptions, stages: StageOptions, data: ChainDataOptions, run: RunOptions, flags: TrainerFlags
) -> int:
    """Run stages A to F, score them where there is ground truth, and write a report; without data, on scenes."""
    from maskdistill.chain import run_all

    return run_all(chain, stages, data, run, flags)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    classes = (ChainOptions, StageOptions, ChainDataOptions, RunOptions, TrainerFlags)
    return cli.command(run_chain, *classes, argv=argv, prog="run.py")


if __name__ == "__main__":
    raise SystemExit(main())

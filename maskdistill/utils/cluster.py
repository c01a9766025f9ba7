r"""Stage B of MaskDistill: give the masks of stage A a class by clustering the features of their crops.

python maskdistill/utils/cluster.py --dataset VOC --dataset_root1 DATA/VOCdevkit/VOC2012 --input_file1 masks.json \
    --weights dino_deitsmall8_pretrain.pth --output_file clustered.json --num_classes 20
"""

from common import cli
from common.options import TrainerFlags
from maskdistill.options import CLUSTER_ALIASES, ClusterOptions


def cluster(options: ClusterOptions, flags: TrainerFlags) -> int:
    """Cluster the masks of stage A by K-means on CLS features, and match the clusters to classes.

    Without ground truth clusters are called cluster_NN; the written table of names can be edited and given with
    --names.
    """
    from maskdistill.cluster_stage import cluster_masks

    cluster_masks(options, flags)
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(cluster, ClusterOptions, TrainerFlags, argv=argv, aliases=CLUSTER_ALIASES, prog="cluster.py")


if __name__ == "__main__":
    raise SystemExit(main())

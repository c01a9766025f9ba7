"""Batch statistics over two processes are those of one process with both batches, and so are the gradients."""

from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn

from transformer_seg.wnet.losses import soft_ncut
from transformer_seg.wnet.model import WNet
from transformer_seg.wnet.shared_norm import SharedBatchNorm2d, share_statistics

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network() -> WNet:
    torch.manual_seed(1)
    return WNet(num_segments=3, width=2).double().train()


def step(net: WNet, images: Tensor) -> dict[str, Tensor]:
    """Gradients of a cut and statistics after it."""
    soft_ncut(images, net.segment(images).softmax(dim=1)).mean().backward()
    found = {f"grad {name}": p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    return found | {name: value.clone() for name, value in net.named_buffers()}


def worker(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    net = network()
    share_statistics(net)
    found = step(net, IMAGES[rank::2])
    for name, value in found.items():
        if name.startswith("grad"):  # as DistributedDataParallel does
            distributed.all_reduce(value)
            value /= 2
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    expected = step(network(), IMAGES)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-12, msg=name)


def test_evaluation_uses_the_running_statistics_alone() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3))
    share_statistics(net)
    assert isinstance(net[0], SharedBatchNorm2d)
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(net.eval()(image), image / (1 + 1e-5) ** 0.5)

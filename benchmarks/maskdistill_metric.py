"""The table of predicted by true labels: three masks per class, or one count of label pairs."""

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor

from common.metrics.confusion import areas
from common.metrics.meters import ConfusionMatrix


def build(tiny: bool) -> Benchmark:
    """Four label maps of 512 x 512, 21 classes, a twentieth void."""
    C = 21
    shape = (1, 32, 32) if tiny else (4, 512, 512)
    predicted, target = torch.randint(0, C, shape), torch.randint(0, C, shape)
    target[torch.rand(shape) < 0.05] = 255

    def textbook() -> Tensor:
        valid = target != 255
        counts = torch.zeros(3, C, dtype=torch.int64)
        for index in range(C):
            found, true = (predicted == index) & valid, (target == index) & valid
            counts[0, index] += (found & true).sum().item()
            counts[1, index] += (found & ~true).sum().item()
            counts[2, index] += (~found & true).sum().item()
        return counts

    def ours() -> Tensor:
        metric = ConfusionMatrix(C)
        metric.update(predicted, target)
        return metric.compute()

    def check(expected: Tensor, table: Tensor) -> None:
        _, rows, columns = areas(table.numpy())
        hits = table.diagonal()
        assert torch.equal(expected[0], hits)
        assert torch.equal(expected[1], torch.as_tensor(rows).flatten() - hits)
        assert torch.equal(expected[2], torch.as_tensor(columns).flatten() - hits)

    moved = num_bytes(predicted, target)
    return Benchmark(f"label table of {shape}, {C} classes", textbook, ours, check, least_bytes=moved)

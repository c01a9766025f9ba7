"""Epoch means of several named values at once, weighted by sample and summed over processes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class NamedMeans(Metric):
    """Mean over all samples of each named value.

    Samples of weight 0 (repeats that keep processes in step) and NaN values (no ground truth) do not count, so batches
    of different sizes are averaged by sample, not by batch. The state is two float64 vectors.

    Example:
        >>> means = NamedMeans(["loss", "jacc"])
        >>> means.update({"loss": torch.tensor([1.0, 3.0]), "jacc": torch.tensor([0.5, float("nan")])})
        >>> {name: float(value) for name, value in means.compute().items()}
        {'loss': 2.0, 'jacc': 0.5}
    """

    full_state_update = False
    sums: Tensor
    weights: Tensor

    def __init__(self, names: Sequence[str], persistent: bool = False) -> None:
        """Start empty.

        Args:
            names: The values' names.
            persistent: Store the state in checkpoints, so that an epoch can be resumed in its middle.
        """
        super().__init__()
        self.names = list(names)
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum", persistent=persistent)
        self.add_state("weights", zeros.clone(), dist_reduce_fx="sum", persistent=persistent)
        self.set_dtype(torch.float64)

    def update(self, values: Mapping[str, Tensor], weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            values: Name -> (B,).
            weight: (B,), ones when None.
        """
        for position, name in enumerate(self.names):
            if name not in values:
                continue
            value = values[name].detach().to(torch.float64)
            counted = torch.ones_like(value) if weight is None else weight.to(value)
            counted = torch.where(value.isnan(), 0.0, counted)
            self.sums[position] += (value.nan_to_num() * counted).sum()
            self.weights[position] += counted.sum()

    def compute(self) -> dict[str, Tensor]:
        """Name -> mean, for every name that has been seen."""
        return {
            name: self.sums[position] / self.weights[position]
            for position, name in enumerate(self.names)
            if self.weights[position] > 0
        }

"""One training iteration: M, X and Z against D, then D against M and X.

Everything happens on the networks and optimisers that are handed in; there are no other effects. Source: ReDO's code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redo.losses import adversarial_loss, composite, hinge_loss, noise_recovery_loss, redrawn
from redo.model import Networks

Backward = Callable[[Tensor], Any]


@dataclass
class Optimisers:
    """One Adam per network; ``noise`` is None where the networks have no Z."""

    mask: torch.optim.Optimizer
    generators: torch.optim.Optimizer
    discriminator: torch.optim.Optimizer
    noise: torch.optim.Optimizer | None

    def players(self) -> list[torch.optim.Optimizer]:
        """Those that play against D."""
        return [o for o in (self.mask, self.generators, self.noise) if o is not None]


def make_optimisers(
    networks: Networks,
    *,
    lrM: float = 1e-5,
    lrG: float = 1e-4,
    lrD: float = 1e-4,
    lrZ: float = 1e-4,
    wdecay: float = 1e-4,
    betas: tuple[float, float] = (0.0, 0.9),
    eps: float = 1e-8,
) -> Optimisers:
    """The published optimisers: Adam without momentum.

    Args:
        networks: What they train.
        lrM: Learning rate of the mask network.
        lrG: Of the region generators.
        lrD: Of the discriminator.
        lrZ: Of the noise encoder.
        wdecay: L2 term added to the gradient, of the mask network only.
        betas: Of all.
        eps: Of all.
    """

    def adam(network: nn.Module, rate: float, decay: float = 0.0) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, eps=eps, weight_decay=decay)

    return Optimisers(
        mask=adam(networks.mask, lrM, wdecay),
        generators=adam(networks.generators, lrG),
        discriminator=adam(networks.discriminator, lrD),
        noise=None if networks.noise is None else adam(networks.noise, lrZ),
    )


@dataclass(frozen=True)
class PlayerTurn:
    """What the step of M, X and Z computed.

    Attributes:
        loss: What they lower, with gradient.
        adversarial: Minus the mean score of the composites.
        noise_error: Mean squared error of the recovered noise; None without Z.
        masks: (B, n, S, S), detached.
    """

    loss: Tensor
    adversarial: Tensor
    noise_error: Tensor | None
    masks: Tensor


@dataclass(frozen=True)
class DiscriminatorTurn:
    """What the step of D computed: its loss, with gradient, and the scores (B, 1) and (B*n, 1), detached."""

    loss: Tensor
    real_scores: Tensor
    fake_scores: Tensor


def player_turn(networks: Networks, images: Tensor, noise: Tensor, wrecZ: float = 5.0) -> PlayerTurn:
    """The loss of M, X and Z. Nothing is detached: the noise term also trains M and X.

    Args:
        networks: In training mode: X, Z and D advance their power iterations by one.
        images: (B, 3, S, S) in [-1, 1].
        noise: (B, n, nz, 1, 1), standard normal.
        wrecZ: Weight of the noise recovery.
    """
    masks = networks.mask(images)
    drawings = networks.generators(masks, noise)
    adversarial = adversarial_loss(networks.discriminator(composite(drawings, masks, images)))
    loss, noise_error = adversarial, None
    if networks.noise is not None:
        noise_error = noise_recovery_loss(noise, networks.noise(redrawn(drawings)))
        loss = adversarial + wrecZ * noise_error
        noise_error = noise_error.detach()
    return PlayerTurn(loss, adversarial.detach(), noise_error, masks.detach())


def discriminator_turn(networks: Networks, images: Tensor, real: Tensor, noise: Tensor) -> DiscriminatorTurn:
    """The loss of D on composites drawn anew, without gradient to M and X.

    The real images come first and in a call of their own: each call advances D's power iterations.

    Args:
        networks: In training mode: X advances its power iterations by one, D by two.
        images: What the composites are made from (B, 3, S, S), in [-1, 1].
        real: Other images (B', 3, S, S).
        noise: (B, n, nz, 1, 1).
    """
    with torch.no_grad():
        masks = networks.mask(images)
        fakes = composite(networks.generators(masks, noise), masks, images)
    real_scores = networks.discriminator(real)
    fake_scores = networks.discriminator(fakes)
    return DiscriminatorTurn(hinge_loss(real_scores, fake_scores), real_scores.detach(), fake_scores.detach())


def training_iteration(
    networks: Networks,
    optimisers: Optimisers,
    images: Tensor,
    real: Tensor,
    noise: Tensor,
    *,
    iteration: int = 0,
    wrecZ: float = 5.0,
    gStepFreq: int = 1,
    dStepFreq: int = 1,
    backward: Backward = Tensor.backward,
) -> tuple[PlayerTurn | None, DiscriminatorTurn | None]:
    """One complete iteration: the step of M, X and Z, then the step of D on the same images and noise.

    Args:
        networks: Put into training mode and changed.
        optimisers: Theirs.
        images: Batch that is cut and redrawn (B, 3, S, S), in [-1, 1].
        real: Independent batch that D sees as real.
        noise: (B, n, nz, 1, 1), standard normal.
        iteration: Number of the iteration, from 0.
        wrecZ: Weight of the noise recovery.
        gStepFreq: M, X and Z take their step when it divides ``iteration``.
        dStepFreq: D takes its step when it divides ``iteration``.
        backward: How a loss is differentiated, for loss scaling.

    Returns:
        Both turns, None for a step that was not due. Gradients stay in place until the next iteration.
    """
    networks.train()
    networks.zero_grad(set_to_none=True)
    played = judged = None
    if iteration % gStepFreq == 0:
        with frozen(networks.discriminator):  # its gradients of this step would be thrown away
            played = player_turn(networks, images, noise, wrecZ)
            backward(played.loss)
        for optimiser in optimisers.players():
            optimiser.step()
    if iteration % dStepFreq == 0:
        judged = discriminator_turn(networks, images, real, noise)
        backward(judged.loss)
        optimisers.discriminator.step()
    return played, judged


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradient to the network's parameters inside the block; gradient still flows through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)

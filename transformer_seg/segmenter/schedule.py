"""The learning rate of Segmenter: polynomial decay per iteration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PolynomialDecay:
    """``min + (base - min) (1 - t / T)^power`` at iteration t of T; published runs use no warm-up and no steps.

    Attributes:
        base: Rate of the first iteration.
        iterations: T. Beyond it the rate stays.
        minimum: Rate at T.
        power: Exponent.
        warmup: Iterations of linear warm-up. The very first iteration has the base rate all the same.
        step: The rate changes only at multiples of this.
    """

    base: float
    iterations: int
    minimum: float = 1e-5
    power: float = 0.9
    warmup: int = 0
    step: int = 1

    def at(self, iteration: int) -> float:
        """Rate of an iteration, counted from 0."""
        last = min(iteration, self.iterations)
        t = last - last % self.step
        if t == 0:
            return self.base
        span = self.base - self.minimum
        if t < self.warmup:
            end = (1 - self.warmup / self.iterations) ** self.power
            return span * (t / self.warmup) * end + self.minimum
        return span * (1 - t / self.iterations) ** self.power + self.minimum

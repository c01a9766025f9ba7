"""What the machine can do at most, and what a step asks of it: the shares say what bounds the step."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

TRIES = 7  # the fastest counts: a ceiling is what the machine can do


class Flops(NamedTuple):
    """Additions and multiplications."""

    products: int
    """In products of matrices, and attention."""
    convolutions: int


@dataclass(frozen=True)
class Ceilings:
    """What PyTorch reaches in float32 per second of processor time, with the threads of the benchmarks.

    Attributes:
        product_gflop_s: Billions of additions and multiplications, in the product of two large matrices.
        convolution_gflop_s: The same in a convolution of many channels; another library, and on some machines twice as
            fast.
        copy_gb_s: Billions of bytes read and written, in a copy that no cache holds.
    """

    product_gflop_s: float
    convolution_gflop_s: float
    copy_gb_s: float

    def compute_seconds(self, flops: Flops) -> float:
        """What they would take at the ceilings."""
        return 1e-9 * (flops.products / self.product_gflop_s + flops.convolutions / self.convolution_gflop_s)


def machine_ceilings(tiny: bool) -> Ceilings:
    """Measure all three; takes three seconds."""
    side, channels, count = (512, 64, 1_000_000) if tiny else (2048, 512, 64_000_000)
    one, other = torch.randn(2, side, side)
    product = torch.empty(side, side)
    image, kernel = torch.randn(2, channels, 32, 32), torch.randn(channels, channels, 3, 3)
    source = torch.zeros(count)
    target = torch.zeros(count)  # written once, so that the system has given the pages
    return Ceilings(
        product_gflop_s=2e-9 * side**3 / _least_seconds(lambda: torch.mm(one, other, out=product)),
        convolution_gflop_s=2e-9
        * 9
        * channels**2
        * 2
        * 32**2
        / _least_seconds(lambda: conv2d(image, kernel, padding=1)),
        copy_gb_s=2e-9 * source.nbytes / _least_seconds(lambda: target.copy_(source)),
    )


def _least_seconds(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(TRIES):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def matrix_flops(call: Callable[[], Any]) -> Flops | None:
    """What a call computes in products, convolutions and attention; None if it has none of them.

    Counted by the formulas of PyTorch, so whatever is done element by element, or outside of PyTorch, does not count.
    """
    with _Flops() as counted:
        call()
    found = Flops(counted.products, counted.convolutions)
    return found if any(found) else None


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # which PyTorch's own table lacks
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Flops(TorchDispatchMode):
    """Adds up while it is entered.

    PyTorch's own counter also follows modules, by hooks that some backward passes refuse.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.convolutions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = FORMULAS.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # in inference mode operations arrive whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        found = func(*args, **kwargs)
        if formula is not None:
            count = formula(*args, **kwargs, out_val=found)
            if "conv" in func._overloadpacket._qualified_op_name:
                self.convolutions += count
            else:
                self.products += count
        return found


def num_bytes(*arrays: Any) -> int:
    """Bytes of tensors and NumPy arrays together."""
    return sum(array.nbytes for array in arrays)

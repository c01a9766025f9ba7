"""What the machine can do at most, and what a step asks of it: the shares say what bounds the step."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

TRIES = 7  # the fastest counts: a ceiling is what the machine can do


@dataclass(frozen=True)
class Ceilings:
    """What PyTorch reaches in float32 per second of processor time, with the threads of the benchmarks.

    Attributes:
        matmul_gflop_s: Billions of additions and multiplications, in the product of two large matrices.
        copy_gb_s: Billions of bytes read and written, in a copy that no cache holds.
    """

    matmul_gflop_s: float
    copy_gb_s: float


def machine_ceilings(tiny: bool) -> Ceilings:
    """Measure both; takes two seconds."""
    side, count = (512, 1_000_000) if tiny else (2048, 64_000_000)
    one, other = torch.randn(2, side, side)
    product = torch.empty(side, side)
    source = torch.zeros(count)
    target = torch.zeros(count)  # written once, so that the system has given the pages
    return Ceilings(
        matmul_gflop_s=2e-9 * side**3 / _least_seconds(lambda: torch.mm(one, other, out=product)),
        copy_gb_s=2e-9 * source.nbytes / _least_seconds(lambda: target.copy_(source)),
    )


def _least_seconds(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(TRIES):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def matrix_flops(call: Callable[[], Any]) -> int | None:
    """Additions and multiplications in a call's products, convolutions and attention; None if it has none of them.

    Counted by the formulas of PyTorch, so whatever is done element by element, or outside of PyTorch, does not count.
    """
    with _Flops() as counted:
        call()
    return counted.total or None


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
        self.total = 0

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
            self.total += formula(*args, **kwargs, out_val=found)
        return found


def num_bytes(*arrays: Any) -> int:
    """Bytes of tensors and NumPy arrays together."""
    return sum(array.nbytes for array in arrays)

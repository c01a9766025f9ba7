"""What the class token attends to: every attention map of the network written out, beside `class_attention`."""

from typing import Any

import torch
from measuring import Benchmark
from torch import Tensor

from transformer_seg.dino.arch import Architecture, freeze
from transformer_seg.vit import VisionTransformer, attention_weights


def build(tiny: bool) -> Benchmark:
    """A picture of 480 x 480 pixels through ViT-S/8: 3601 tokens."""
    arch, side = ("vit_tiny", 32) if tiny else ("vit_small", 480)
    network = freeze(Architecture(arch, 8).build())
    assert isinstance(network, VisionTransformer)
    image = torch.randn(1, 3, side, side)
    return Benchmark(
        f"class attention of {arch}/8 at {side} x {side}",
        lambda: textbook_attention(network, image),
        lambda: network.class_attention(image),
        lambda a, b: torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-7),
    )


@torch.no_grad()
def textbook_attention(network: VisionTransformer, image: Tensor) -> Tensor:
    """Softmax over all pairs of tokens in every block; of the last one, the row of the class token."""
    x = network.embed(image)
    blocks: list[Any] = list(network.blocks)
    for block in blocks[:-1]:
        weights = attention_weights(block, x)
        B, N, D = x.shape
        value = block.attn.qkv(block.norm1(x)).reshape(B, N, 3, block.attn.num_heads, -1)[:, :, 2].transpose(1, 2)
        x = x + block.attn.proj((weights @ value).transpose(1, 2).reshape(B, N, D))
        x = x + block.mlp(block.norm2(x))
    h, w = (side // network.patch_size for side in image.shape[-2:])
    weights = attention_weights(blocks[-1], x)
    return weights[:, :, 0, network.extra :].unflatten(-1, (h, w))

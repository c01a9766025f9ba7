"""Queries and keys of the last block: the whole network image by image, beside batches of one padded size."""

import torch
from measuring import Benchmark
from torch import Tensor

from common.training import seed_everything
from maskdistill.model.vit import HEAD_WIDTH, VisionTransformer, interpolate_positions

Found = list[tuple[Tensor, Tensor]]


def build(tiny: bool) -> Benchmark:
    """Eight images of two sizes through a ViT-S/16, patches 20 x 27 and 27 x 20: half of stage A's own side."""
    seed_everything(0)
    network = VisionTransformer("small", 16, depth=2 if tiny else 12).eval()
    sizes = [(32, 48), (48, 32)] if tiny else [(320, 432), (432, 320)]
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *sizes[k % 2], generator=draw) for k in range(4 if tiny else 8)]

    def check(textbook: Found, ours: Found) -> None:
        for expected, found in zip(textbook, ours, strict=True):
            for one, other in zip(expected, found, strict=True):
                torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)

    return Benchmark(
        f"queries and keys of {len(images)} images of {sizes}",
        lambda: textbook_extraction(network, images),
        lambda: batched_extraction(network, images),
        check,
        frames=len(images),
    )


@torch.no_grad()
def batched_extraction(network: VisionTransformer, images: list[Tensor]) -> Found:
    """Images of one size together, as stage A's loader puts them."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for size in {image.shape for image in images}:
        rows = [row for row, image in enumerate(images) if image.shape == size]
        queries, keys = network.queries_keys(torch.stack([images[row] for row in rows]))
        found.update({row: (queries[place, :, 0], keys[place]) for place, row in enumerate(rows)})
    return [found[row] for row in range(len(images))]


@torch.no_grad()
def textbook_extraction(network: VisionTransformer, images: list[Tensor]) -> Found:
    """One image after the other through all blocks with attention written out, the last block's qkv noted."""
    return [_one(network, image[None]) for image in images]


def _one(network: VisionTransformer, image: Tensor) -> tuple[Tensor, Tensor]:
    P = network.patch_size
    tokens = torch.cat([network.cls_token, network.patch_embed(image)], 1)
    tokens = tokens + interpolate_positions(network.pos_embed, image.shape[2] // P, image.shape[3] // P)
    for block in network.blocks:
        normed = block.norm1(tokens)  # type: ignore[operator]
        B, T, D = normed.shape
        qkv = block.attn.qkv(normed).reshape(B, T, 3, network.num_heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)  # type: ignore
        queries, keys, values = qkv
        attention = (queries @ keys.transpose(-2, -1) * HEAD_WIDTH**-0.5).softmax(-1)
        mixed = (attention @ values).transpose(1, 2).reshape(B, T, D)
        tokens = tokens + block.attn.proj(mixed)  # type: ignore
        tokens = tokens + block.mlp(block.norm2(tokens))  # type: ignore
    network.norm(tokens)
    return queries[0, :, 0], keys[0]

"""Labels of a picture in sliding windows: softmax of all classes at full size, a window at a time, beside ours."""

import torch
from measuring import Benchmark
from torch import Tensor
from torch.nn import functional as F

from transformer_seg.segmenter.module import make_network
from transformer_seg.segmenter.options import SegmenterOptions
from transformer_seg.segmenter.windows import View, Windows, class_labels, window_anchors


def build(tiny: bool) -> Benchmark:
    """Seg-T-Mask/16, 512 x 683 in two windows, labels of 150 classes at 768 x 1024."""
    side, view, size = (32, (32, 44), (48, 66)) if tiny else (512, (512, 683), (768, 1024))
    options = SegmenterOptions(arch="tiny", num_classes=10 if tiny else 150)
    network = make_network(options, side).eval()
    image, windows = torch.randn(1, 3, *view), Windows(side, side - side // 16)

    def check(textbook: Tensor, ours: Tensor) -> None:
        assert (textbook == ours).float().mean() > 0.9995  # equal but for ties within rounding

    return Benchmark(
        f"Seg-T-Mask/16, {view[0]} x {view[1]}, labels at {size[0]} x {size[1]}",
        lambda: textbook_labels(network, image, size, windows),
        lambda: class_labels(network, [View(image)], size, windows),
        check,
        frames=1,
    )


@torch.no_grad()
def textbook_labels(network: torch.nn.Module, image: Tensor, size: tuple[int, int], windows: Windows) -> Tensor:
    """Average the logits of the windows, resize, softmax, argmax."""
    side = windows.size
    logits, cover = None, torch.zeros(image.shape[-2:])
    for row, column in window_anchors((image.shape[-2], image.shape[-1]), windows):
        part = network(image[..., row : row + side, column : column + side])
        if logits is None:
            logits = torch.zeros(1, part.shape[1], *image.shape[-2:])
        logits[..., row : row + side, column : column + side] += part
        cover[row : row + side, column : column + side] += 1
    assert logits is not None
    resized = F.interpolate(logits / cover, size=size, mode="bilinear", align_corners=False)
    return resized.softmax(dim=1).argmax(dim=1)[0]

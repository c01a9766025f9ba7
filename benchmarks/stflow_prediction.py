"""Prediction of a batch of windows: PyTorch's layers on the batch, beside `MotionSegmenter.predict_step`. No theta."""

import torch
from measuring import Benchmark
from stflow_step import textbook_network
from stflow_theta import segments_in_motion
from torch import Tensor

from stflow.module import MotionSegmenter
from stflow.options import ModelOptions, UNetOptions


def build(tiny: bool) -> Benchmark:
    """Ten windows of 3 x 128 x 224, four segments, 32 features."""
    size, features = ((3, 4, 3, 8, 12), 4) if tiny else ((10, 4, 3, 128, 224), 32)
    _, flow = segments_in_motion(*size)
    options = ModelOptions(nAffineMasks=4, unet=UNetOptions(features_start=features))
    module = MotionSegmenter(options, img_size=size[-2:]).eval()
    network = textbook_network(module.model)

    def textbook() -> Tensor:
        with torch.no_grad():
            return network._layers(flow)[0].softmax(1)

    def ours() -> Tensor:
        with torch.inference_mode():
            return module.predict_step({"flow": flow}, 0).proba

    def check(textbook: Tensor, ours: Tensor) -> None:
        torch.testing.assert_close(ours, textbook, rtol=1e-3, atol=1e-4)

    return Benchmark(f"prediction of {tuple(flow.shape)}, {features} features", textbook, ours, check, frames=size[0])

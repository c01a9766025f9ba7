"""The semantic network as an ONNX file, checked with onnxruntime."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.errors import InputError, RunFailed
from common.files import atomic_path
from maskdistill.final_network import final_network
from maskdistill.predict_options import ExportOptions
from maskdistill.segmentation.restore import save_original

OPSET = 18


def export(options: ExportOptions) -> Path:
    """Write the network: image float32 (B, 3, S, S) with ImageNet statistics in, logits (B, K, S, S) out.

    Raises:
        InputError: No network there, an unknown ending, onnx or onnxruntime not installed.
        RunFailed: The exported network says something else than the original.
    """
    restored = final_network(options.model_dir, options.select)
    if options.out.name.endswith(".pth.tar"):
        save_original(restored.network, options.out)
        return options.out
    if options.out.suffix != ".onnx":
        raise InputError(f"--out {options.out}: the name must end in .onnx or .pth.tar")
    side = options.image_px or restored.image_px or 512
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with atomic_path(options.out) as temporary:
        write_onnx(restored.network.eval(), example, temporary)
        difference = largest_difference(restored.network, temporary, example[:1])
        if difference > options.tolerance:
            raise RunFailed(
                f"{options.out}: not written: logits differ by {difference:.1e} of the largest, more than --tolerance"
            )
    print(f"{options.out}: logits differ by at most {difference:.1e} of the largest in onnxruntime")
    return options.out


def write_onnx(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Export with a free batch size.

    Raises:
        InputError: onnx is not installed.
    """
    try:
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        raise InputError("--out *.onnx: needs onnx, onnxscript and onnxruntime: pip install -e '.[export]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )


@torch.no_grad()
def largest_difference(network: nn.Module, path: Path, images: torch.Tensor) -> float:
    """Largest difference of the logits, relative to the largest logit.

    Raises:
        InputError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("the check of the export needs onnxruntime: pip install -e '.[export]'") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": images.numpy()})
    expected = network(images).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())

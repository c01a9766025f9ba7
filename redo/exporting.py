"""Trained networks for other programs: ONNX, and the original's containers."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from common.errors import InputError
from common.files import atomic_path, check_writable
from redo.checkpoints import export_state
from redo.containers import NETWORKS
from redo.options import ExportOptions
from redo.restore import Trained, restore


def run(options: ExportOptions) -> Path:
    """Write the file that the options name.

    Raises:
        InputError: Weights that cannot be read, or a file name of another kind.
    """
    kinds = {".onnx": write_onnx, ".pth": write_container}
    if options.out.suffix not in kinds:
        raise InputError(f"--out {options.out}: name a file that ends in {' or '.join(kinds)}")
    check_writable(options.out.parent)
    kinds[options.out.suffix](restore(options.model_dir), options.out, options.opset)
    return options.out


def write_onnx(trained: Trained, path: Path, opset: int) -> None:
    """The mask network: ``images`` (B, C, S, S) in [-1, 1] to ``masks`` (B, n, S, S), any B.

    Raises:
        InputError: The packages of the ``export`` extra are missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # the exporter's own error would not say what to install
    except ImportError as error:
        raise InputError(f"{error.name}: not installed; pip install 'unseg[export]'") from error
    sizes = trained.options
    images = torch.zeros(2, sizes.nx, sizes.sizex, sizes.sizex)
    program = torch.onnx.export(
        trained.network("M").cpu().eval(),
        (images,),
        input_names=["images"],
        output_names=["masks"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    with atomic_path(path) as temporary:
        onnx.save_model(program.model_proto, str(temporary))


def write_container(trained: Trained, path: Path, opset: int) -> None:
    """All networks that there are, as the original's ``netEncM`` ..., with the options of their sizes."""
    content: dict[str, object] = {NETWORKS[letter]: export_state(net) for letter, net in trained.networks.items()}
    content["options"] = argparse.Namespace(**asdict(trained.options))
    with atomic_path(path) as temporary:
        torch.save(content, temporary)

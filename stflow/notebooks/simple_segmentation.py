"""The shortest way from flow files to segments: load a model, read T consecutive fields, look at the labels.

    python stflow/notebooks/simple_segmentation.py --model_dir runs/stflow --flow 00000.flo 00001.flo 00002.flo

``Simple Segmentation Example.ipynb`` beside it goes through the same steps.
"""

from dataclasses import dataclass
from pathlib import Path

from common import cli
from common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """What is segmented."""

    model_dir: Path
    """Run directory (its best checkpoint) or checkpoint file, ours or the authors'."""
    flow: list[str]
    """Consecutive flow files, as many as the model takes (three as published)."""
    out: Path = Path("segments.png")
    """Picture of the fields and their segments."""


def run(options: ExampleOptions) -> int:
    """Segment one window of consecutive flow fields and draw fields and segments."""
    import torch

    from common.files import write_image
    from common.flow_files import read_flow
    from common.resize import resize_flow
    from common.visualize import colourise_labels, flow_to_colour, image_grid
    from stflow.restore import restore

    model = restore(options.model_dir)
    T, size = len(model.options.inputs), tuple(model.hparams["img_size"])
    if len(options.flow) != T:
        raise InputError(f"--flow: {len(options.flow)} files, the model takes {T}; name consecutive fields")
    fields = [resize_flow(torch.from_numpy(read_flow(file)), size) for file in options.flow]
    with torch.no_grad():
        proba = model(torch.stack(fields, dim=1)[None])  # (1,2,T,I,J) -> (1,L,T,I,J)
    labels = proba[0].argmax(dim=0).numpy()
    pictures = [flow_to_colour(field.numpy()) for field in fields] + [colourise_labels(one) for one in labels]
    write_image(options.out, image_grid(pictures, columns=T))
    print(f"{options.out}: {T} fields above their segments")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, ExampleOptions, argv=argv, aliases={"-md": "--model_dir"}, prog="simple_segmentation.py")


if __name__ == "__main__":
    raise SystemExit(main())

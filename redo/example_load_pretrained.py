"""Look at published weights: cut and redraw some images of a data set.

python redo/example_load_pretrained.py --statePath flowers_nets_state.tar.gz --dataset flowers --dataroot DATA
python redo/example_load_pretrained.py --statePathM M.pth --statePathX X.pth --data_file NAME_test.csv --base_dir DATA
"""

from common import cli
from redo.options import ExampleOptions


def show(options: ExampleOptions) -> int:
    """Show images with ground truth, masks and both regions redrawn; weights as .pth or, as published, .tar.gz."""
    from redo.example import run

    print(f"picture: {run(options)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(show, ExampleOptions, argv=argv, prog="example_load_pretrained.py")


if __name__ == "__main__":
    raise SystemExit(main())

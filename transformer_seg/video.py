"""The attention of a DINO network over a video, as a video and a GIF, in one pass of bounded memory.

python transformer_seg/video.py clip.mp4 --pretrained_weights dino_deitsmall8_pretrain.pth --resize 240
python transformer_seg/video.py frames/ --pretrained_weights runs/dino --overlay --output_path runs/video
"""

from common import cli
from transformer_seg.dino.options import VideoOptions

ALIASES = {
    "--weights": "--pretrained_weights",
    "--out": "--output_path",
    "--output_dir": "--output_path",
    "--keep-frames": "--keep_frames",
    "--fixed-range": "--fixed_range",
}


def video(options: VideoOptions) -> int:
    """Show what the class token of a DINO network attends to over a video or a folder of frames."""
    from common.training import plain_failures
    from transformer_seg.dino.attention_video import run_video

    with plain_failures():
        written = run_video(options)
    print("\n".join(map(str, written)))
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(video, VideoOptions, argv=argv, aliases=ALIASES, prog="video.py")


if __name__ == "__main__":
    raise SystemExit(main())

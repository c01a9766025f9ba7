"""What a DINO network attends to: maps per head and averaged, masks as pictures and as a split with a Pred column.

python transformer_seg/attention.py photo.jpg --pretrained_weights dino_deitsmall8_pretrain.pth --out runs/attention
python transformer_seg/attention.py --data_file DataSplit/NAME_val.csv --base_dir DATA --pretrained_weights runs/dino
"""

from common import cli
from common.options import TrainerFlags
from transformer_seg.dino.options import COMMAND_ALIASES, AttentionOptions


def attention(options: AttentionOptions, flags: TrainerFlags) -> int:
    """Show and keep what the class token of a DINO network attends to in its last block."""
    from common.messages import tell
    from transformer_seg.dino.attention_maps import run_attention

    tell(f"masks: {run_attention(options, flags)}")
    return cli.DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(
        attention, AttentionOptions, TrainerFlags, argv=argv, aliases=COMMAND_ALIASES, prog="attention.py"
    )


if __name__ == "__main__":
    raise SystemExit(main())

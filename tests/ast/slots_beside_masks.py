"""How far do the slots explain what step 2 calls foreground? For videos without ground truth: a line of figures.

    python tests/ast/slots_beside_masks.py RUN     # the run directory of ast/run.py

covered   share of the foreground pixels of step 2 that lie under a slot
inside    share of the slots' pixels that are foreground of step 2
lit       share of the frames with a slot
slots     slots per frame, beside the connected pieces of step 2's masks, of 1/512 of the image and more each
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from common.files import read_labels
from common.splits import read_split

LEAST_SHARE = 1 / 512


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    folders = parser.parse_args().run / "predictions", parser.parse_args().run / "background" / "background_dataset"
    predicted, masked = (read_split(folder / "background_test.csv", base_dir=folder) for folder in folders)
    both = foreground = under_slots = 0
    slots, pieces = [], []
    for row in range(len(predicted)):
        labels, mask = read_labels(predicted.path(row, "Pred")), read_labels(masked.path(row, "BackgroundMask")) > 0
        both += int(((labels > 0) & mask).sum())
        foreground += int(mask.sum())
        under_slots += int((labels > 0).sum())
        least = LEAST_SHARE * mask.size
        slots.append(int((np.unique(labels[labels > 0], return_counts=True)[1] >= least).sum()))
        _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
        pieces.append(int((statistics[1:, cv2.CC_STAT_AREA] >= least).sum()))
    print(
        f"{len(slots)} frames: covered {both / max(1, foreground):.3f}, inside {both / max(1, under_slots):.3f}, "
        f"lit {np.mean(np.array(slots) > 0):.3f}, slots {np.mean(slots):.2f}, pieces {np.mean(pieces):.2f}"
    )


if __name__ == "__main__":
    main()

"""What stands on disk for a sequence: the probabilities of its windows, its linked labels; and the frames they mean.

A window is named by its centre. With windows of T fields, k = T // 2 of the N frames at either end are no centre,
unless the prediction reflected the sequence at its ends (boundaries Periodic).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import read_array
from common.splits import Split
from stflow.linking import unravel, window_labels

Labels = NDArray[Any]
PROBA, FEATURES = "_proba", "_features"


def output_file(folder: Path, flow_cell: str, ending: str) -> Path:
    """A file that belongs to a flow field: its path below ``folder``, with ``ending`` in the suffix's place."""
    parts = [part for part in Path(flow_cell).with_suffix("").parts if part not in ("/", "..")]
    return folder.joinpath(*parts[:-1], parts[-1] + ending)


def proba_file(folder: Path, flow_cell: str) -> Path:
    """Where the probabilities of the window around a flow field are kept."""
    return output_file(folder, flow_cell, f"{PROBA}.npy")


@dataclass(frozen=True)
class FlowSequence:
    """The rows of one sequence that have flow, in ascending index.

    Attributes:
        name: Of its files: the folder of the flows, or the split's name for it where sequences share a folder.
        rows: Row numbers in the split (N,).
        cells: Their flow cells.
        clip: All rows of the sequence, those without flow too.
    """

    name: str
    rows: NDArray[np.int64]
    cells: list[str]
    clip: NDArray[np.int64]

    def file(self, folder: Path, ending: str) -> Path:
        """A file of the whole sequence, in the folder of its flows below ``folder``."""
        return proba_file(folder, self.cells[0]).parent / (self.name + ending)


def flow_sequences(split: Split) -> dict[str, FlowSequence]:
    """The sequences of a split that have any flow, by the split's names."""
    with_flow, cells = split.available("Flow"), split.column("Flow")
    clips = split.sequences()
    rows = {name: members[with_flow[members]] for name, members in clips.items()}
    rows = {name: members for name, members in rows.items() if len(members)}
    folders = {name: Path(str(cells[members[0]])).parent for name, members in rows.items()}
    shared = Counter(folders.values())
    return {
        name: FlowSequence(
            folders[name].name if shared[folders[name]] == 1 and folders[name].name else name.replace("/", "_"),
            members,
            [str(cells[row]) for row in members],
            clips[name],
        )
        for name, members in rows.items()
    }


@dataclass(frozen=True)
class WindowLabels:
    """Most probable segments of the windows of a sequence.

    Attributes:
        labels: (n, T, I, J).
        num_labels: L.
    """

    labels: NDArray[np.uint8]
    num_labels: int


def is_predicted(folder: Path, sequence: FlowSequence) -> bool:
    """Whether there is any prediction of a sequence."""
    files = (proba_file(folder, cell) for cell in sequence.cells)
    return sequence.file(folder, f"{PROBA}.npy").exists() or any(file.exists() for file in files)


def read_windows(folder: Path, sequence: FlowSequence, legacy_float16: bool = False) -> WindowLabels:
    """Labels of all windows of a sequence, from one file per window or one file of the sequence.

    Args:
        folder: Where the prediction wrote.
        sequence: Whose windows.
        legacy_float16: See `stflow.linking.window_labels`.

    Raises:
        InputError: A window is missing, or of another shape than the first.
    """
    whole = sequence.file(folder, f"{PROBA}.npy")
    files = [proba_file(folder, cell) for cell in sequence.cells]
    if whole.exists() and whole not in files:
        probas: NDArray[Any] = read_array(whole)
        if probas.ndim != 5:
            raise InputError(f"{whole}: has shape {probas.shape}, not (windows, L, T, I, J); predict again")
        check_windows(len(probas), probas.shape[2], len(files), whole)
        labels = np.stack([window_labels(proba, legacy_float16) for proba in probas])
        return WindowLabels(labels, probas.shape[1])
    present = [file.exists() for file in files]
    if not any(present):
        raise InputError(f"{files[len(files) // 2]}: no prediction; the sequence may be shorter than a window")
    first, last = present.index(True), len(present) - present[::-1].index(True)
    windows, num_labels = [], 0
    for file in files[first:last]:
        proba: NDArray[Any] = read_array(file)
        if proba.ndim != 4:
            raise InputError(f"{file}: has shape {proba.shape}, not (L, T, I, J); predict again")
        windows.append(window_labels(proba, legacy_float16))
        if windows[-1].shape != windows[0].shape or num_labels not in (0, proba.shape[0]):
            raise InputError(
                f"{file}: shape {proba.shape} differs from the other windows of the sequence; predict again"
            )
        num_labels = proba.shape[0]
    missing = files[first - 1] if first else files[min(last, len(files) - 1)]
    check_windows(len(windows), windows[0].shape[0], len(files), missing)
    if first != len(files) - last:
        raise InputError(f"{missing}: no prediction, but the neighbours have one; predict again")
    return WindowLabels(np.stack(windows), num_labels)


def check_windows(count: int, T: int, num_frames: int, file: Path) -> None:
    """Refuse windows that do not fit a sequence: there is one per frame, or T // 2 less at either end.

    Raises:
        InputError: names the file.
    """
    if count not in (num_frames, num_frames - 2 * (T // 2)):
        raise InputError(
            f"{file}: {count} windows of {T} fields for {num_frames} fields, expected {num_frames - 2 * (T // 2)};"
            " predict again"
        )


@dataclass(frozen=True)
class FrameLabels:
    """Linked labels of the frames of a sequence.

    Attributes:
        labels: (N, I, J), one map per frame with flow.
        edge: Frames at either end that are no centre of a window: chunks of frames leave them aside when cut.
    """

    labels: Labels
    edge: int


def frames_of(windows: Labels, num_frames: int, file: Path | str = "windows") -> FrameLabels:
    """Labels of the N frames of a sequence, from its linked windows (n, T, I, J).

    Raises:
        InputError: The numbers do not fit; names the file.
    """
    n, T = windows.shape[:2]
    check_windows(n, T, num_frames, Path(file))
    edge = (num_frames - n) // 2
    start = T // 2 - edge  # reflected windows reach over the sequence's ends
    return FrameLabels(unravel(windows)[start : start + num_frames], edge)


def label_sequence_file(folder: Path, sequence: FlowSequence, cuts_size: int | None) -> Path:
    """Where the linked windows of a sequence are kept: ``<sequence>_cs<cuts>_labelseq.npy``."""
    return sequence.file(folder, f"_cs{cuts_size}_labelseq.npy")


def selection_file(folder: Path, flow_cell: str, stem: str, cuts_size: int | None) -> Path:
    """Where the binary mask of a frame is kept: in its flow's folder, under the name of its ground truth."""
    return proba_file(folder, flow_cell).parent / f"{stem}_seq_cs{cuts_size}binary_eval.npy"


def read_linked(folder: Path, sequence: FlowSequence, cuts_size: int | None) -> FrameLabels:
    """Linked labels of the frames of a sequence.

    Raises:
        InputError: Not linked yet with this cut, or made from other windows.
    """
    file = label_sequence_file(folder, sequence, cuts_size)
    if not file.exists():
        others = sorted(entry.name for entry in file.parent.glob(f"{sequence.name}_cs*_labelseq.npy"))
        there = f"there is {', '.join(others)}" if others else "run LinkPredictions.py first"
        raise InputError(f"{file}: no linked labels with --cuts_size {cuts_size}; {there}")
    windows = read_array(file)
    if windows.ndim != 4 or windows.dtype.kind not in "iu":
        raise InputError(f"{file}: holds {windows.dtype} {windows.shape}, not labels (windows, T, I, J); link again")
    return frames_of(windows, len(sequence.rows), file)


def stem_of(split: Split, row: int, *columns: str) -> str:
    """Name without suffix of the first of these columns that has a file in a row."""
    column = next(name for name in (*columns, "Flow") if name in split.columns and split.available(name)[row])
    return Path(split.cell(row, column)).stem

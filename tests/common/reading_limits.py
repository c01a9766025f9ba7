"""Reads files under limits of memory and time: ``python reading_limits.py LIST.json`` prints what came of each.

The list holds ``[reader, path]`` pairs; a reader is a name of `_readers`, or ``module:function``. One line of JSON per
pair: ``["value", description]`` or ``["error", class, message]``.
"""

import importlib
import json
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MEMORY_MB, SECONDS = 1500, 20


def _readers() -> dict[str, Callable[[str], Any]]:
    from common.checkpoints import load_checkpoint, state_dict_of
    from common.files import image_size, read_array, read_image, read_labels, read_mask
    from common.flow_files import flow_size, read_flow
    from common.splits import read_classes, read_split
    from common.video import video_frames, video_info

    return {
        "image": read_image,
        "image_size": image_size,
        "labels": read_labels,
        "mask": read_mask,
        "array": read_array,
        "flow": read_flow,
        "flow_size": flow_size,
        "split": read_split,
        "classes": read_classes,
        "video": lambda path: sum(1 for _ in video_frames(path)),
        "video_info": video_info,
        "checkpoint": lambda path: state_dict_of(load_checkpoint(path), path),
    }


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return (
            f"{value.dtype} {value.shape} sum {float(np.nan_to_num(value).sum()) if value.dtype.kind in 'iufb' else 0}"
        )
    if hasattr(value, "foreground"):
        return f"mask {value.labels.shape} {int(value.foreground.sum())}"
    return f"{type(value).__name__} {len(value) if hasattr(value, '__len__') else value}"


def main() -> None:
    """Read what the list says."""
    warnings.simplefilter("ignore")
    readers = _readers()
    wanted = json.loads(Path(sys.argv[1]).read_text())
    for kind in {kind for kind, _ in wanted if kind not in readers}:
        module, _, function = kind.partition(":")
        readers[kind] = getattr(importlib.import_module(module), function)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = in_use + MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"more than {SECONDS} s")))
    for kind, path in wanted:
        signal.alarm(SECONDS)
        try:
            answer = ["value", _describe(readers[kind](Path(path) if ":" in kind else path))]
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test judges it
            answer = ["error", type(error).__name__, str(error)]
        signal.alarm(0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

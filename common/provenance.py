"""Where a result comes from: code, versions, machine, data, time and memory, as one JSON file beside the result."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.files import atomic_path

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "opencv-python", "timm", "torchmetrics")


class Provenance:
    """Collects the facts of one run; ``write`` may be called at the start and again at the end."""

    def __init__(self, **facts: Any) -> None:
        """Start the clock.

        Args:
            **facts: What the run adds, e.g. ``seed=123, split_hash="..."``; JSON types only.
        """
        self.started = time.time()
        self.facts = {
            "command": " ".join(sys.argv),
            "commit": git_commit(Path(__file__).parent),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "versions": {name: _version(name) for name in PACKAGES},
            **facts,
        }

    def write(self, path: Path, **facts: Any) -> None:
        """Write all facts with the duration (s) and the peak resident memory (MB) so far."""
        self.facts.update(facts)
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        measured = {"seconds": round(time.time() - self.started, 1), "peak_memory_mb": round(peak_kb / 1024)}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps({**self.facts, **measured}, indent=2) + "\n")


def git_commit(folder: Path) -> str | None:
    """Hash of the checked-out commit, with ``+changes`` when files differ from it; None outside a repository."""
    hashed = _git(folder, "rev-parse", "HEAD")
    if hashed is None:
        return None
    return hashed + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""Freed memory stays with the process, once that is asked for."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_stays_or_goes(keep: bool) -> None:
    """Two hundred megabytes are touched and freed; how many stay is read from the kernel."""
    script = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from common.allocation import keep_freed_memory\n"
        "def resident():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return int(next(line for line in lines if 'VmRSS' in line).split()[1]) // 1024\n"
        f"assert not {keep} or keep_freed_memory()\n"
        "before = resident()\n"
        "large = np.ones(25_000_000)\n"
        "del large\n"
        "print(resident() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (int(done.stdout) > 150) == keep

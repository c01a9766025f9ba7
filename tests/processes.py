"""Commands as child processes, whatever started the test run."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

WORKER = """
import contextlib, io, json, resource, runpy, signal, sys, traceback
from pathlib import Path

lines, more_memory, seconds = json.loads(sys.argv[1])
if more_memory is not None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + more_memory,) * 2)
signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"more than {seconds} s")))
for script, *arguments in lines:
    said, code = io.StringIO(), "none"
    argv, sys.argv = sys.argv, [script, *arguments]
    path, sys.path = sys.path, [str(Path(script).parent), *sys.path]
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        code = traceback.format_exc()
    signal.alarm(0)
    sys.argv, sys.path = argv, path
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


def interruptible() -> None:
    """For ``preexec_fn``: a test run started in the background ignores SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_one_process(
    lines: Sequence[Sequence[str]],
    folder: Path,
    *,
    seconds: int,
    more_memory: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[tuple[object, str]]:
    """Run command lines one after the other in a process of their own, which imports torch once.

    Args:
        lines: Script and its arguments, each.
        folder: Working directory.
        seconds: A command may take.
        more_memory: Bytes of address space that all may take beyond the interpreter's.
        environment: Of the process; default: this one's.

    Returns:
        Exit code, or the traceback that ended it, and what it said, of each.
    """
    given = json.dumps([[list(line) for line in lines], more_memory, seconds])
    done = subprocess.run(
        [sys.executable, "-c", WORKER, given],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60 + len(lines) * seconds,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines), f"died at {lines[len(answers)]}: {done.stderr[-600:]}"
    return [(code, said) for code, said in answers]

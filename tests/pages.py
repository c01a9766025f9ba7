"""The commands that the project's pages show, and which of them need what a test has not."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(page for page in ROOT.rglob("*.md") if not {".venv", "runs", "node_modules"} & set(page.parts))
# Files of others: data sets and published weights. Words in capitals (DATA, NAME, WEIGHTS) stand for such files too.
FOREIGN = re.compile(
    r"tfrecords?\b|VOCdevkit|BSDS500|ADEChallengeData2016|CUB_200|weizmann_horse_db|_pretrain\.pth|seg_tiny_mask"
    r"|\bdino\d+\.pth|moco\.pth|\b[A-Z][A-Z0-9_]{2,}\b|--pretrained(?!_)|--backend detectron2"
)
ELSEWHERE = re.compile(r"--devices? ([2-9]|cuda)|--entity")  # GPUs, a login

WRITES = re.compile(r"--(?:out|outf|path_save_model|out_file|output_file|pred_json_path)[ =](\S+)|OUT=(\S+)")


def commands() -> Iterator[tuple[str, str]]:
    """Page and command, continued lines joined, comments and prompts left out."""
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        for line in text.splitlines():
            found = re.match(r"(?: *|\$ )((?:python|make) .*)$", line)
            if found and (line.startswith(("    ", "$")) or _fenced(text, line)):
                yield str(page.relative_to(ROOT)), found[1]


def _fenced(text: str, line: str) -> bool:
    """Whether a line stands in a block between fences."""
    return text[: text.index(line)].count("```") % 2 == 1


def arguments(command: str) -> list[str]:
    """The words of a command, up to a comment, a pipe or a redirection; without shell variables that stand alone."""
    words = [word for word in shlex.split(command, comments=True) if word != "..." and not word.startswith("$")]
    ends = [number for number, word in enumerate(words) if word in ("|", ">", "&&", "2>")]
    return words[: ends[0]] if ends else words


def runnable(page: str) -> list[str]:
    """The commands of a page that need neither data sets, nor weights of others, nor what such commands write."""
    found: list[str] = []
    made: set[str] = set()
    absent: set[str] = set()
    for where, command in commands():
        if where != page:
            continue
        text = re.sub(r"\s+#.*", "", command)
        bare = re.sub(r"\b[A-Z_]+=", "", text)  # make's variables are no placeholders
        reads = WRITES.sub("", text)
        if (
            FOREIGN.search(bare)
            or ELSEWHERE.search(bare)
            or "..." in text
            or any(name in reads for name in absent - made)
        ):
            absent |= written(text)
        else:
            found.append(text)
            made |= written(text)
    return found


def written(command: str) -> set[str]:
    """Files, folders and splits that a command says it writes; of make's training targets the folder they choose."""
    target = re.match(r"make train-(\S+)(?:.*MODEL=(\S+))?", command)
    chosen = {f"runs/{(target[2] or target[1]).replace('transformer-seg', 'wnet')}"} if target else set()
    return chosen | {name for match in WRITES.findall(command) for name in match if name}

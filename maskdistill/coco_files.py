"""COCO files on disk: read and written entry by entry, checked, and grown over interrupted runs.

A file of 20 000 images holds tens of megabytes of text. It is parsed while it is read and written while it is made: the
text never stands in memory beside its entries.

An image has ONE id through all stages: the one in the ``images`` of the file that a stage reads. Whoever detects on
those images uses these ids, and ``read_results`` refuses a list with an id that the images do not have.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError
from common.files import atomic_path, check_file
from common.messages import is_first_process, warn
from common.prediction import claim

Entry = dict[str, Any]

CHUNK = 1 << 20
SPACES = " \t\r\n"


class CocoFile(NamedTuple):
    """The content of a COCO file."""

    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]

    def sizes(self) -> dict[Any, tuple[int, int]]:
        """(H, W) by image id."""
        return {image["id"]: (int(image["height"]), int(image["width"])) for image in self.images}

    def as_dict(self) -> dict[str, Any]:
        """As the evaluation takes it."""
        return self._asdict()


class _Reader:
    """A JSON text decoded value by value from a file."""

    def __init__(self, path: Path) -> None:
        self.path = check_file(path, "JSON")
        self.file = self.path.open(encoding="utf-8")
        self.text, self.place = "", 0
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Take in another piece; whether there was one."""
        piece = self.file.read(CHUNK)
        self.text, self.place = self.text[self.place :] + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in SPACES:
                self.place += 1
            if self.place < len(self.text) or not self.more():
                return self.text[self.place : self.place + 1]

    def take(self, expected: str) -> None:
        """Step over a character."""
        if self.peek() != expected:
            raise ValueError(f"'{expected}' expected, '{self.peek() or 'the end'}' found")
        self.place += 1

    def value(self) -> Any:
        """The next value as a whole."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError:
                if not self.more():
                    raise
                continue
            if end == len(self.text) and self.more():  # a number may go on in the next piece
                continue
            self.place = end
            return value

    def items(self) -> Iterator[Any]:
        """The elements of the list that comes next."""
        self.take("[")
        if self.peek() == "]":
            self.place += 1
            return
        while True:
            yield self.value()
            if self.peek() == "]":
                self.place += 1
                return
            self.take(",")


def iterate_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """The elements of a file's lists, each with the name of its list; "" for a file that is one list.

    Raises:
        InputError: Not JSON, cut off, or neither a list nor an object of lists.
    """
    reader = _Reader(path)
    try:
        with reader.file:
            first = reader.peek()
            if first == "[":
                for item in reader.items():
                    yield "", item
            elif first == "{":
                yield from _object_items(reader)
            else:
                raise ValueError("neither a list nor an object")
            if reader.peek():
                raise ValueError("text after the end")
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a readable JSON file ({reason}); make it again") from error


def _object_items(reader: _Reader) -> Iterator[tuple[str, Any]]:
    reader.take("{")
    if reader.peek() == "}":
        reader.place += 1
        return
    while True:
        key = reader.value()
        reader.take(":")
        if reader.peek() == "[":
            for item in reader.items():
                yield key, item
        else:
            reader.value()
        if reader.peek() == "}":
            reader.place += 1
            return
        reader.take(",")


def read_coco(path: Path) -> CocoFile:
    """A COCO file with images, annotations (may be empty) and categories, its ids checked.

    Raises:
        InputError: Not such a file; an image without id, name or size; a repeated image id; an annotation of an image
            that the file does not have.
    """
    lists: dict[str, list[Entry]] = {"images": [], "annotations": [], "categories": []}
    for name, entry in iterate_entries(path):
        if name == "":
            raise InputError(f"{path}: a results list; a COCO file with images and annotations is needed here")
        if name in lists:
            lists[name].append(entry)
    content = CocoFile(**lists)
    if not content.images:
        raise InputError(f"{path}: lists no images; a COCO file with images, annotations, categories is needed")
    for index, image in enumerate(content.images):
        lacking = [
            key for key in ("id", "file_name", "height", "width") if not isinstance(image, dict) or key not in image
        ]
        if lacking:
            raise InputError(f"{path}: images[{index}] has no '{lacking[0]}'")
        for key, kinds in (("id", (int, str)), ("file_name", (str,)), ("height", (int,)), ("width", (int,))):
            if not isinstance(image[key], kinds):
                raise InputError(f"{path}: images[{index}] has the {key} {image[key]!r}; make the file again")
    known = {image["id"] for image in content.images}
    if len(known) < len(content.images):
        raise InputError(f"{path}: {len(content.images) - len(known)} image ids are repeated; each image needs its own")
    for index, entry in enumerate(content.annotations):
        lacking = [
            key for key in ("image_id", "category_id", "bbox") if not isinstance(entry, dict) or key not in entry
        ]
        if lacking:
            raise InputError(f"{path}: annotations[{index}] has no '{lacking[0]}'")
        if not isinstance(entry["image_id"], (int, str)) or entry["image_id"] not in known:
            raise InputError(f"{path}: annotations[{index}] is of image_id {entry['image_id']!r}, which images lack")
    return content


def is_results_list(path: Path) -> bool:
    """Whether a file is a bare list of detections."""
    reader = _Reader(path)
    try:
        with reader.file:
            return reader.peek() == "["
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); make it again") from error


def read_results(path: Path, images: CocoFile | None = None, images_path: Path | str = "images") -> list[Entry]:
    """A results list: ``{image_id, category_id, bbox, score, segmentation}`` per detection, sorted within images.

    Args:
        path: The list.
        images: What its ids are checked against; None: nothing is known.
        images_path: Name of that file, for messages.

    Raises:
        InputError: Not a list; an entry without a field, of an unknown image or category, with a score that is no
            number, with a segmentation of another size or a polygon of fewer than three points. The message names the
            entry.
    """
    if not is_results_list(path):
        raise InputError(f"{path}: not a results list; the list of detections that Mask R-CNN writes is needed here")
    sizes = images.sizes() if images else None
    categories = {entry["id"] for entry in images.categories} if images and images.categories else None
    entries = []
    for index, (_, entry) in enumerate(iterate_entries(path)):
        fault = _fault(entry, sizes, categories)
        if fault:
            raise InputError(f"{path}: entry {index}: {fault.format(images=images_path)}")
        entries.append(entry)
    return _sorted_within_images(entries, path)


def _fault(entry: Any, sizes: Mapping[Any, tuple[int, int]] | None, categories: set[Any] | None) -> str | None:
    """What is wrong with a detection, if anything."""
    if not isinstance(entry, dict):
        return f"a {type(entry).__name__}, not a detection"
    lacking = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if lacking:
        return f"no '{lacking[0]}'"
    for key in ("image_id", "category_id"):
        if not isinstance(entry[key], (int, str)):
            return f"{key} {entry[key]!r} is neither a number nor a name"
    score, box = entry["score"], entry["bbox"]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        return f"score {score} is no number"
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, (int, float)) for side in box)):
        return f"bbox {box} is not [x, y, w, h]"
    if not all(math.isfinite(side) for side in box):
        return f"bbox {box} holds what is no number"
    if sizes is not None and entry["image_id"] not in sizes:
        return f"image_id {entry['image_id']!r} is not among the images of {{images}}"
    if categories is not None and entry["category_id"] not in categories:
        return f"category_id {entry['category_id']!r} is not among the categories of {{images}}"
    return _segmentation_fault(entry.get("segmentation"), sizes[entry["image_id"]] if sizes else None)


def _segmentation_fault(segmentation: Any, size: tuple[int, int] | None) -> str | None:
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        found = segmentation.get("size")
        if "counts" not in segmentation or not isinstance(found, list):
            return "segmentation has no size or counts"
        if size is not None and tuple(found) != size:
            return f"segmentation size {found} differs from the image's {list(size)}"
        return None
    if not isinstance(segmentation, list):
        return f"segmentation is a {type(segmentation).__name__}"
    short = [polygon for polygon in segmentation if not isinstance(polygon, list) or len(polygon) < 6]
    return f"polygon {short[0]} has fewer than 6 numbers" if short else None


def _sorted_within_images(entries: list[Entry], path: Path) -> list[Entry]:
    """The same entries, those of an image by falling score, images where they first stood."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry["image_id"], []).append(entry)
    unsorted = 0
    for group in groups.values():
        scores = [entry["score"] for entry in group]
        if any(later > earlier for earlier, later in pairwise(scores)):
            group.sort(key=lambda entry: -entry["score"])
            unsorted += 1
    if not unsorted:
        return entries
    warn(f"{path}: detections of {unsorted} images were not sorted by score; they are now")
    return [entry for group in groups.values() for entry in group]


def write_coco(path: Path, images: Iterable[Entry], annotations: Iterable[Entry], categories: Iterable[Entry]) -> Path:
    """Write a COCO file entry by entry, as a whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        lists = {"images": images, "annotations": annotations, "categories": categories}
        for number, (name, entries) in enumerate(lists.items()):
            file.write(f'{", " if number else "{"}"{name}": [')
            _write_items(file, entries)
            file.write("]")
        file.write("}\n")
    return Path(path)


def write_results(path: Path, detections: Iterable[Entry]) -> Path:
    """Write a results list entry by entry, as a whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        _write_items(file, detections)
        file.write("]\n")
    return Path(path)


def _write_items(file: Any, entries: Iterable[Entry]) -> None:
    for index, entry in enumerate(entries):
        file.write((",\n" if index else "") + json.dumps(entry))


class Records(Mapping[Any, Entry]):
    """Records in files of lines, read when they are asked for: those of very many images would not fit into memory.

    Args:
        files: Of lines; of a record that stands twice the last one counts, a line that is cut off is none.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [file.open("rb") for file in files]
        self._places: dict[Any, tuple[int, int]] = {}
        for number, file in enumerate(self._files):
            place = 0
            for line in file:
                with suppress(ValueError):  # the line that a killed run left unfinished
                    self._places[json.loads(line)["key"]] = (number, place)
                place += len(line)

    def __getitem__(self, key: Any) -> Entry:
        number, place = self._places[key]
        self._files[number].seek(place)
        record: Entry = json.loads(self._files[number].readline())
        return record

    def __iter__(self) -> Iterator[Any]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Parts:
    """Records of a long run, kept line by line beside its output until that is whole.

    ``<output>.parts/`` holds ``source.json`` and one file of lines per process and run. A killed run leaves at most one
    line that is cut off, which is ignored; a record that stands twice counts once.
    """

    def __init__(self, output: Path, source: Mapping[str, Any]) -> None:
        self.output, self.source = Path(output), dict(source)
        self.folder = self.output.with_name(self.output.name + ".parts")
        self._file: Any = None

    def open(self) -> "Records":
        """The records that stand, by key.

        Raises:
            InputError: They are of another source.
        """
        claim(self.folder, self.source, f"remove {self.folder} to start anew")
        return Records(sorted(self.folder.glob("*.jsonl")))

    def add(self, record: Entry) -> None:
        """Keep a record; it has a ``key``."""
        if self._file is None:
            name = f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"
            self._file = (self.folder / name).open("w", encoding="utf-8")
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """The output is whole: say what it was made from, and drop the parts."""
        self.close()
        with atomic_path(source_file(self.output)) as temporary:
            temporary.write_text(json.dumps(self.source, indent=2) + "\n")
        shutil.rmtree(self.folder, ignore_errors=True)


def source_file(output: Path) -> Path:
    """The file that says what an output was made from."""
    return output.with_name(output.name + ".source.json")


def stands(output: Path, source: Mapping[str, Any], overwrite: bool, flag: str) -> bool:
    """Whether an output of this source stands already.

    Args:
        output: The file.
        source: Plain values, all of what it depends on.
        overwrite: Drop what is there.
        flag: The option that names the output, for the message.

    Raises:
        InputError: Something else stands there.
    """
    parts = output.with_name(output.name + ".parts")
    if overwrite:
        if is_first_process():  # others start when the first one may be writing already
            shutil.rmtree(parts, ignore_errors=True)
        return False
    if not output.exists():
        return False
    before: Any = None
    with suppress(OSError, ValueError):
        before = json.loads(source_file(output).read_text())
    if not isinstance(before, dict):
        raise InputError(f"{flag} {output}: exists and nothing says what made it; give --overwrite or another name")
    changed = [key for key in source if before.get(key) != source[key]]
    if changed:
        old, new = str(before.get(changed[0]))[:40], str(source[changed[0]])[:40]
        raise InputError(
            f"{flag} {output}: made with another {changed[0]} ({old}, now {new}); give --overwrite or another name"
        )
    return True


def file_hash(path: Path) -> str:
    """Hash of a file's content.

    Raises:
        InputError: No such file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

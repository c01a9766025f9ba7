"""Hostile and damaged files against every importer and reader of the methods: no code runs, one line, little memory.

The readers of images, flow, arrays, splits and videos are in ``tests/common/test_hostile_files.py``.
"""

import argparse
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from common.metrics.protocol import Protocol, Score
from common.tfrecord import masked_crc
from tests.common.test_hostile_files import Evil, mutations, nested, torch_bytes

ROOT = Path(__file__).resolve().parents[2]
IMPORTERS = (
    *("ast_seg.restore:restore_background", "ast_seg.restore:restore_slots"),
    *(
        "maskdistill.checkpoints:read_published",
        "maskdistill.detection:restore",
        "maskdistill.final_network:final_network",
    ),
    *("maskdistill.segmentation.restore:restore", "redo.containers:read_container", "redo.restore:restore"),
    *("stflow.restore:restore", "stflow.checkpoints:import_checkpoint", "transformer_seg.restore:system_of"),
    *("transformer_seg.wnet.restore:restore_wnet", "transformer_seg.wnet.checkpoints:load_wnet"),
    *("transformer_seg.segmenter.restore:restore_segmenter", "transformer_seg.segmenter.checkpoints:load_segmenter"),
    *("transformer_seg.dino.weights:read_content", "transformer_seg.dino.checkpoints:load_dino"),
    *("tests.contract.readers:vit", "tests.contract.readers:raft"),
)
PLAIN = {"maskdistill.checkpoints:read_published", "redo.containers:read_container"}
"""They give what a file holds, whatever it is, as long as it is plain; the network is made by others."""
PLAIN |= {"transformer_seg.dino.weights:read_content", "transformer_seg.restore:system_of"}


class Attribute:
    """A pickle that reaches for code by way of an attribute."""

    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return getattr, (subprocess.Popen, "communicate")


def old_format(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def hostile_checkpoints() -> dict[str, bytes]:
    """Files with code in them, or that stand for more than memory holds."""
    weights = {"a.weight": torch.zeros(3, 4)}
    objects = np.array([Evil(), None], dtype=object)
    return {
        "evil.ckpt": torch_bytes({"state_dict": weights, "code": Evil()}),
        "evil_key.ckpt": torch_bytes({"state_dict": weights, ("x",): {"y": Evil()}}),
        "evil_old.pth": old_format({"state_dict": weights, "code": Evil()}),
        "evil_namespace.pth": torch_bytes({"options": argparse.Namespace(x=Evil()), "state_dict": weights}),
        "evil_plain.pth": pickle.dumps({"state_dict": Evil()}),
        "evil_text.pth": b"cos\nsystem\n(S'touch pwned'\ntR.",
        "evil_arrays.pkl": pickle.dumps({"model": {"a": objects}}),
        "evil_plain.pkl": pickle.dumps({"model": Evil()}),
        "attribute.pth": torch_bytes({"state_dict": Attribute()}),
        "attribute.pkl": pickle.dumps({"model": Attribute()}),
        "module.pth": old_format(torch.nn.Sequential(torch.nn.Linear(2, 2))),
        "module_zip.pth": torch_bytes(torch.nn.Sequential(torch.nn.Linear(2, 2))),
        "expanded.ckpt": torch_bytes({"state_dict": {"a.weight": torch.zeros(1).expand(2**22, 2**22)}}),
        "nested.ckpt": torch_bytes(nested(200)),
        "archive.tar.gz": tar({"x.pth": torch_bytes({"state_dict": weights, "code": Evil()})}),
        "slip.tar.gz": tar({"../../pwned.pth": b"x", "/tmp/pwned.pth": b"y"}),
        "slip_one.tar.gz": tar({"../../../pwned": b"x", "../pwned.pth": b"no checkpoint"}),
        "link.tar.gz": tar({}, {"x.pth": "/etc/passwd"}),
        "empty.tar.gz": tar({}),
    }


ALLOWED = {
    # what is plain is given as it is; it is refused where a network is made of it
    *((name, reader) for name in ("expanded.ckpt", "nested.ckpt") for reader in PLAIN),
    # whose a file of the old format is shows without opening it
    *((name, "transformer_seg.restore:system_of") for name in ("evil_old.pth", "module.pth")),
}


def sound_files() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """A sound file of every kind with its readers."""
    weights = {"a.weight": torch.zeros(3, 4), "a.bias": torch.ones(3)}
    arrays = {"model": {"stem.conv1.weight": np.zeros((2, 3), np.float32)}, "__author__": "x"}
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.5}
    mask = {"size": [4, 5], "counts": "05000"}
    coco = {"images": [image], "annotations": [{**entry, "id": 1}], "categories": [{"id": 1, "name": "x"}]}
    protocol = Protocol(scope="image", void="none", resolution="own", averaging="images")
    payload = b"\n\x12\n\x10\n\x01a\x12\x0b\n\t\n\x07payload"
    length = len(payload).to_bytes(8, "little")
    record = length + masked_crc(length).to_bytes(4, "little") + payload + masked_crc(payload).to_bytes(4, "little")
    voc = "<annotation><filename>a.jpg</filename><object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin>"
    voc += "<ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object></annotation>"
    return {
        "sound.ckpt": (torch_bytes({"state_dict": weights, "hyper_parameters": {}, "epoch": 0}), IMPORTERS),
        "old.pth": (old_format(torch.nn.Sequential(torch.nn.Linear(2, 2))), IMPORTERS),
        "arrays.pkl": (pickle.dumps(arrays), ("maskdistill.checkpoints:read_published",)),
        "archive.tar.gz": (tar({"x.pth": torch_bytes(weights)}), ("redo.containers:read_container",)),
        "coco.json": (json.dumps(coco).encode(), ("tests.contract.readers:coco",)),
        "results.json": (
            json.dumps([{**entry, "segmentation": mask}] * 2).encode(),
            ("tests.contract.readers:detections",),
        ),
        "scores.json": (
            json.dumps([Score("x", 0.5, protocol, 3).to_dict()]).encode(),
            ("tests.contract.readers:scores",),
        ),
        "variant.yml": (
            b"net_kwargs:\n  n_heads: 3\n  image_size: !!python/tuple [3, 4]\n",
            ("transformer_seg.segmenter.checkpoints:read_variant",),
        ),
        "records.tfrecord": (record, ("tests.contract.readers:examples",)),
        "a.xml": (voc.encode(), ("tests.contract.readers:annotation",)),
        "truth.mat": (matlab(), ("tests.contract.readers:segmentations",)),
    }


def matlab() -> bytes:
    from scipy.io import savemat

    buffer = io.BytesIO()
    cell = np.empty((1, 1), object)
    cell[0, 0] = {"Segmentation": np.ones((3, 4), np.uint16)}
    savemat(buffer, {"groundTruth": cell})
    return buffer.getvalue()


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 12))]
)
XML_BOMB = (
    '<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    + "]><annotation><filename>&a9;</filename></annotation>"
)
REFUSED = {
    "no_id.json": (b'{"images": [{"file_name": "a", "height": 1, "width": 1}]}', "coco"),
    "list_as_id.json": (b'{"images": [{"id": [1], "file_name": "a", "height": 1, "width": 1}]}', "coco"),
    "no_number.json": (b'{"images": [{"id": 1, "file_name": "a", "height": null, "width": "x"}]}', "coco"),
    "huge.json": (b'{"images": [{"id": 1, "file_name": "a", "height": 1e400, "width": 1}]}', "coco"),
    "not_utf8.json": (b'{"images": "\xff\xfe"}', "coco"),
    "deep.json": (b"[" * 100_000, "coco"),
    "deep_results.json": (b"[" * 100_000, "detections"),
    "list_as_image.json": (
        b'[{"image_id": [1], "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
        "detections",
    ),
    "infinite.json": (b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, Infinity, 1], "score": 1}]', "detections"),
    "deep_scores.json": (b"[" * 100_000, "scores"),
    "foreign_scores.json": (b'[{"name": "x", "value": "high"}]', "scores"),
    "no_scores.json": (b'[{"name": "x", "value": [], "n": 1, "protocol": 3}]', "scores"),
    "external.xml": (
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>',
        "annotation",
    ),
    "bomb.xml": (XML_BOMB.encode(), "annotation"),
    "huge.tfrecord": (
        (2**60).to_bytes(8, "little") + masked_crc((2**60).to_bytes(8, "little")).to_bytes(4, "little"),
        "examples",
    ),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, ...], list[str]], Path]:
    """What a process of limited memory and time says of every file."""
    folder = tmp_path_factory.mktemp("hostile")
    wanted: dict[tuple[str, ...], list[str]] = {}

    def put(content: bytes, name: str, reader: str, *key: str) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        wanted[(*key, reader)] = [reader, str(path)]

    for name, content in hostile_checkpoints().items():
        for reader in IMPORTERS:
            put(content, name, reader, name)
    put(BOMB.encode(), "bomb.yml", "transformer_seg.segmenter.checkpoints:read_variant", "bomb.yml")
    tag = b"net_kwargs: !!python/object/apply:os.system ['touch pwned']\n"
    put(tag, "tag.yml", "transformer_seg.segmenter.checkpoints:read_variant", "tag.yml")
    for name, (content, reader) in REFUSED.items():
        put(content, name, f"tests.contract.readers:{reader}", name)
    for seed, (name, (content, readers)) in enumerate(sound_files().items()):
        for reader in readers:
            put(content, f"sound/{name}", reader, "sound", name)
            for kind, damaged in mutations(content, seed).items():
                put(damaged, f"{kind}/{name}", reader, kind, name)
    (folder / "list.json").write_text(json.dumps(list(wanted.values())))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "common" / "reading_limits.py"), str(folder / "list.json")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # some readers stand in the tests
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(wanted), f"died at {list(wanted)[len(lines)]}: {done.stderr[-600:]}"
    return dict(zip(wanted, lines, strict=True)), folder


def test_all_are_values_or_one_line(answers: tuple[dict[tuple[str, ...], list[str]], Path]) -> None:
    found = answers[0]
    assert len(found) > 1000
    wrong = {key: answer for key, answer in found.items() if answer[0] == "error" and answer[1] != "InputError"}
    assert not wrong, "\n".join(f"{key}: {answer}" for key, answer in wrong.items())
    assert not {key: answer for key, answer in found.items() if answer[0] == "error" and "\n" in answer[2]}


@pytest.mark.parametrize("reader", IMPORTERS)
def test_hostile_checkpoints_are_refused(reader: str, answers: tuple[dict[tuple[str, ...], list[str]], Path]) -> None:
    for name in hostile_checkpoints():
        answer = answers[0][name, reader]
        assert (name, reader) in ALLOWED or answer[0] == "error", (name, answer)


@pytest.mark.parametrize("name", [*REFUSED, "bomb.yml", "tag.yml"])
def test_refused(name: str, answers: tuple[dict[tuple[str, ...], list[str]], Path]) -> None:
    answer = next(answer for key, answer in answers[0].items() if key[0] == name)
    assert answer[:2] == ["error", "InputError"], answer


def test_sound_files_are_read(answers: tuple[dict[tuple[str, ...], list[str]], Path]) -> None:
    """Else nothing above would tell damage from a reader that refuses everything."""
    found = {key[1] for key, answer in answers[0].items() if key[0] == "sound" and answer[0] == "value"}
    assert found == set(sound_files())


def test_nothing_was_run_or_put_elsewhere(answers: tuple[dict[tuple[str, ...], list[str]], Path]) -> None:
    folder = answers[1]
    for place in (folder, *folder.parents[:3], ROOT, Path("/tmp")):
        assert not list(place.glob("pwned*"))

"""Golden cases of requests, boundaries and file readers, driven by the manifest."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.files import read_image, read_mask
from common.flow_files import read_flow
from common.resize import resize_flow, resize_image, resize_mask
from common.splits import read_split
from common.windows import RequestIndex, bounce, parse_request, sort_requests
from tests.golden import SHARED, Case, load_cases


def check_parse_request(case: Case) -> None:
    arrays = case.arrays()
    reject = set(case.config.get("reject", []))
    for text, column, offset in arrays["out_parsed"].tolist():
        if column == "ERROR" or text in reject:
            with pytest.raises(ValueError, match="request") as caught:
                parse_request(text)
            assert isinstance(caught.value, InputError)
            assert text in str(caught.value)
        else:
            parsed = parse_request(text)
            assert (parsed.column, parsed.offset) == (column, int(offset))
    for text in reject:
        assert parse_request(text, columns=[text]).column == text
    for key in (key for key in arrays if key.startswith("in_list_")):
        k = key.removeprefix("in_list_")
        got = sort_requests(arrays[key].tolist(), str(arrays[f"in_col_{k}"]))
        assert got == arrays[f"out_sorted_{k}"].tolist()


def check_boundaries(case: Case) -> None:
    arrays = case.arrays()
    split = read_split(case.folder / case.config["csv"])
    keys = np.array([f"{s}/{i}" for s, i in zip(split.column("Sequence"), split.index, strict=True)])
    modes = {key.removeprefix("out_").partition(".")[0] for key in arrays if key.startswith("out_")}
    assert modes
    for mode in modes:
        index = RequestIndex(split, arrays["in_requests"].tolist(), mode)
        cells = np.stack([split.column(request.column) for request in index.requests], axis=1)
        paths = np.where(index.sources >= 0, np.take_along_axis(cells, index.sources.clip(min=0), axis=0), "")
        # the reference's Strict index keeps rows with an empty cell; only its servable rows are required
        required = arrays[f"out_{mode}.servable"] if mode == "Strict" else slice(None)
        assert keys[index.rows].tolist() == arrays[f"out_{mode}.index"][required].tolist()
        assert paths[index.rows].tolist() == arrays[f"out_{mode}.paths"][required].tolist()
        assert index.servable[index.rows].tolist() == arrays[f"out_{mode}.servable"][required].tolist()


def check_bounce(case: Case) -> None:
    index, low, high = case.arrays()["in_cases"].T
    case.check("out_index", bounce(index, low, high))


def check_files(case: Case, tmp_path) -> None:
    arrays = case.arrays()
    flow_file, mask_file, image_file = (case.folder / name for name in case.config["files"])
    size = tuple(case.config["resize"])
    (tmp_path / "bytes.flo").write_bytes(arrays["in_flo_bytes"].tobytes())
    flow = torch.from_numpy(read_flow(tmp_path / "bytes.flo"))
    np.testing.assert_array_equal(flow.numpy(), read_flow(flow_file))
    mask = torch.from_numpy(read_mask(mask_file, "255").foreground).to(torch.int64)
    image = torch.from_numpy(read_image(image_file)).permute(2, 0, 1) / 255
    case.check("out_flow", flow.permute(1, 2, 0))
    case.check("out_mask", mask)
    case.check("out_image", image)
    for suffix, antialias in (("", False), ("_antialias", True)):
        case.check(f"out_flow_resized{suffix}", resize_flow(flow, size, antialias))
        case.check(f"out_mask_resized{suffix}", resize_mask(mask, size, antialias))
        case.check(f"out_image_resized{suffix}", resize_image(image, size, antialias))


CHECKS = {"parse_request": check_parse_request, "boundaries": check_boundaries, "bounce": check_bounce}
CASES = [case for case in load_cases("stflow") if case.family in (*CHECKS, "files")]
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason=f"golden fixtures not found in {SHARED} (set UNSEG_SHARED)"))


@pytest.mark.parametrize("case", CASES or [ABSENT], ids=[case.name for case in CASES] or ["absent"])
def test_golden(case, tmp_path):
    if case.family == "files":
        check_files(case, tmp_path)
    else:
        CHECKS[case.family](case)

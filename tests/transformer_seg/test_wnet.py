"""W-Net: what holds for every input, hand-worked values, and published files."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import rand_score
from torch import nn

from common.errors import InputError
from common.files import read_image
from tests.golden import need_data
from transformer_seg.wnet.alternation import alternating_iteration
from transformer_seg.wnet.checkpoints import import_wnet, load_wnet
from transformer_seg.wnet.crf import LEGACY_CRF, CrfOptions, refine
from transformer_seg.wnet.legacy_pickle import read_legacy_module
from transformer_seg.wnet.lite import Down, LiteUNet, LiteWNet, Output, Up
from transformer_seg.wnet.lite_losses import grey_opening
from transformer_seg.wnet.losses import NcutKernel, soft_ncut
from transformer_seg.wnet.merging import components, merge_hierarchy
from transformer_seg.wnet.model import WNet
from transformer_seg.wnet.region_scores import benchmark, region_scores


def dense_ncut(image, p, kernel: NcutKernel):
    """The formula over all pairs of pixels, in float64."""
    _, H, W = image.shape
    colour = image.double().flatten(1).T * kernel.value_scale
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], 1).double()
    distance = torch.cdist(place, place).square().round()
    contrast = (colour[:, None] - colour[None]).square().sum(-1)
    weights = torch.exp(-contrast / kernel.sigma_intensity**2 - distance / kernel.sigma_space**2)
    weights = weights * (distance < kernel.radius**2)
    p = p.double().flatten(1)
    return len(p) - ((p @ weights * p).sum(1) / (p @ weights.sum(1))).sum()


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(2, 5), st.sampled_from([1.0, 2.0, 2.5, 5.0]), st.integers(0, 9)
)
def test_ncut_is_the_sum_over_all_pairs(H, W, K, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, H, W, generator=generator) * 0.1
    p = torch.rand(1, K, H, W, generator=generator).softmax(1)
    kernel = NcutKernel(radius=radius)
    torch.testing.assert_close(soft_ncut(image.double(), p.double(), kernel)[0], dense_ncut(image[0], p[0], kernel))


def test_ncut_bounds_and_invariances():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 12, 10, generator=generator)
    p = torch.rand(2, 4, 12, 10, generator=generator).softmax(1)
    both = soft_ncut(image, p)
    torch.testing.assert_close(both, torch.cat([soft_ncut(image[i : i + 1], p[i : i + 1]) for i in range(2)]))
    torch.testing.assert_close(both, soft_ncut(image, p[:, [2, 0, 3, 1]]))
    one = torch.zeros(1, 4, 12, 10)
    one[:, 1] = 1
    torch.testing.assert_close(soft_ncut(image[:1], one), torch.tensor([3.0]))  # the empty segments add 1 each
    halves = torch.zeros(1, 3, 12, 10)
    halves[..., 5:] = 1.0  # black beside white: no edge crosses
    split = torch.stack([1 - halves[:, 0], halves[:, 0]], 1)
    torch.testing.assert_close(soft_ncut(halves, split), torch.zeros(1))


def test_ncut_gradient_is_that_of_the_value():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 5, 4, generator=generator, dtype=torch.float64) * 0.1
    logits = torch.randn(1, 3, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: soft_ncut(image, z.softmax(1)).sum(), logits)


def test_ncut_stays_in_float32_under_autocast():
    image, p = torch.rand(1, 3, 8, 8), torch.rand(1, 4, 8, 8).softmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = soft_ncut(image, p)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, soft_ncut(image, p), rtol=0, atol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(3, 9), st.integers(3, 9), st.integers(0, 99))
def test_grey_opening_is_that_of_scipy(size, H, W, seed):
    maps = torch.rand(1, 2, H, W, generator=torch.Generator().manual_seed(seed))
    expected = np.stack([ndimage.grey_opening(one, size=(size, size)) for one in maps[0].numpy()])
    if size <= 2:  # scipy's border repeats the edge, which for larger windows reaches pixels that ours ignores
        np.testing.assert_array_equal(grey_opening(maps, size)[0], expected)
    assert (grey_opening(maps, size) <= maps).all()


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (16, 16)])
def test_networks_take_any_size(size):
    image = torch.rand(1, 3, *size)
    for network in (WNet(num_segments=3, width=4).eval(), LiteWNet(num_segments=3).eval()):
        logits, reconstruction = network(image)
        assert logits.shape == (1, 3, *size)
        assert reconstruction.shape == image.shape
        torch.testing.assert_close(network.segment(image), logits)


def test_too_small_an_image_is_refused():
    with pytest.raises(InputError, match="image of 15 x 40 pixels"):
        WNet(num_segments=3, width=4)(torch.rand(1, 3, 15, 40))


def test_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        networks = {19_262_531: WNet(), 627_117: LiteWNet()}
    for count, network in networks.items():
        assert sum(p.numel() for p in network.parameters()) == count


def test_paper_options_change_the_network():
    torch.manual_seed(0)
    image, plain = torch.rand(2, 3, 16, 16), WNet(num_segments=3, width=4)
    nn.init.normal_(plain.UEnc.enc1.batchnorm1.bias)  # a new normalisation is the identity, where the order is nothing
    other = import_wnet(plain.state_dict(), order="relu_bn")
    assert not torch.allclose(plain.eval()(image)[0], other(image)[0])
    dropping = import_wnet(plain.state_dict(), dropout=0.65)
    torch.testing.assert_close(plain(image)[0], dropping(image)[0])
    dropping.train()
    assert not torch.equal(dropping.segment(image), dropping.segment(image))


def test_ncut_step_leaves_the_decoder_alone():
    torch.manual_seed(0)
    network = WNet(num_segments=3, width=4).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    image = torch.rand(2, 3, 16, 16)
    losses = [alternating_iteration(network, optimiser, image) for _ in range(12)]
    assert losses[-1].reconstruction < losses[0].reconstruction
    encoder, decoder = network.UEnc.enc1.batchnorm1, network.UDec.enc1.batchnorm1
    assert (int(encoder.num_batches_tracked), int(decoder.num_batches_tracked)) == (24, 12)


def test_importer_names_what_does_not_fit():
    state = WNet(num_segments=3, width=4).state_dict()
    with pytest.raises(InputError, match=r"1 missing \(UDec.up1.bias\)"):
        import_wnet({key: value for key, value in state.items() if key != "UDec.up1.bias"})
    with pytest.raises(InputError, match=r"UEnc.up1.bias \(3,\) instead of \(32,\)"):
        import_wnet(state | {"UEnc.up1.bias": torch.zeros(3)})
    with pytest.raises(InputError, match="not a W-Net"):
        import_wnet({"encoder.weight": torch.zeros(3)})


def test_real_published_weights_reconstruct_a_photo():
    network = load_wnet(need_data("weights", "fkodom_wnet", "wnet_state_dict.pt"))
    file = sorted(need_data("bsds500").rglob("*.jpg"))[0]
    image = torch.from_numpy(read_image(file)).permute(2, 0, 1)[None, :, :128, :192] / 255
    with torch.no_grad():
        logits, reconstruction = network(image)
    assert logits.shape[1] == 20
    error = (reconstruction - image).square().mean()
    assert error < 0.25 * image.var()  # trained weights: it explains most of the photo
    assert len(logits.argmax(1).unique()) > 1


@pytest.fixture
def pickled_module(tmp_path, monkeypatch):
    """A whole module in the format of 2019, of classes that do not exist when the file is read."""
    source = types.ModuleType("src.wnet")
    path, network = tmp_path / "wnet.pt", LiteWNet(num_segments=4)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "src", types.ModuleType("src"))
        patch.setitem(sys.modules, "src.wnet", source)
        for kind in (LiteWNet, LiteUNet, Down, Up, Output):
            patch.setattr(kind, "__module__", "src.wnet")
            setattr(source, kind.__name__, kind)
        torch.save(network, path, _use_new_zipfile_serialization=False)
    return path, network


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_pickled_module_of_2019_is_read_without_its_classes(pickled_module):
    path, network = pickled_module
    loaded = load_wnet(path)
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], tensor, rtol=0, atol=0)
    cut = path.with_name("cut.pt")
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut.pt: not a pickled network"):
        load_wnet(cut)


def test_pickled_module_with_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "touched"),)

    network = nn.Linear(2, 2)
    network.hook = Attack()
    torch.save(network, tmp_path / "bad.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"(posix|nt)\.mkdir is not a part of a network"):
        read_legacy_module(tmp_path / "bad.pt", ())
    assert not (tmp_path / "touched").exists()
    (tmp_path / "other.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"other.pt: not a"):
        read_legacy_module(tmp_path / "other.pt", ())


def test_state_dict_in_the_old_format(tmp_path):
    network = LiteWNet(num_segments=2)
    torch.save(network.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(load_wnet(tmp_path / "old.pt").state_dict(), network.state_dict())


def test_crf_follows_the_image_and_the_options():
    generator = np.random.default_rng(0)
    image = np.full((3, 20, 24), 0.2, np.float32)
    image[2, :, 12:] = 0.8  # an edge in blue
    p = np.full((2, 20, 24), 0.5, np.float32)
    p[0] += np.where(np.arange(24) < 12, 0.2, -0.2) + generator.uniform(-0.25, 0.25, (20, 24))
    p[1] = 1 - p[0]
    truth = np.broadcast_to(np.arange(24) >= 12, (20, 24))
    marginals = refine(p, image)
    np.testing.assert_array_equal(marginals.argmax(0), truth)
    np.testing.assert_allclose(marginals.sum(0), 1, atol=1e-4)
    np.testing.assert_allclose(refine(p[::-1], image), marginals[::-1], atol=1e-4)
    mild = CrfOptions(weight=3.0)
    blind = refine(p, image, CrfOptions(weight=3.0, sigma_colour=LEGACY_CRF.sigma_colour))
    confidence = [np.where(truth, q[1], q[0])[:, 11:13].mean() for q in (refine(p, image, mild), blind)]
    assert confidence[1] < confidence[0] - 0.01  # without blue the two sides blend at the edge
    with pytest.raises(ValueError, match="2 values for an image of 3 channels"):
        refine(p, image, CrfOptions(sigma_colour=(0.05, 0.05)))


def test_hierarchy_by_hand():
    labels = np.array([[0, 0, 1, 1, 2]])
    p = np.array([[[1.0, 1.0, 0.8, 0.8, 0.0]], [[0.0, 0.0, 0.2, 0.2, 1.0]]])
    tree = merge_hierarchy(labels, p)
    np.testing.assert_allclose(tree.heights, [0, 0, 0, 0.2, 0.8])
    np.testing.assert_array_equal(tree.labels_at(0.1), labels)
    np.testing.assert_array_equal(tree.labels_at(0.3), [[1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(tree.labels_at(0.8), [[0] * 5])
    contours = tree.contour_map()
    assert contours.shape == (3, 11)
    np.testing.assert_allclose(contours[1], [0, 0, 0, 0, 0.2, 0, 0, 0, 0.8, 0, 0], atol=1e-7)


def test_hierarchy_averages_by_length():
    labels = np.array([[0, 0, 0], [1, 1, 2], [1, 1, 2]])
    p = np.stack([np.array([[1.0, 0.9, 1.0], [0.5, 0.5, 0.4], [0.5, 0.5, 0.4]])])
    p = np.concatenate([p, 1 - p])
    tree = merge_hierarchy(labels, p)
    np.testing.assert_allclose(tree.heights[3:], [0.1, (0.5 + 0.4 + 0.6) / 3])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 999))
def test_contours_and_segmentations_agree(H, W, K, seed):
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(K), (H, W)).transpose(2, 0, 1)
    tree = merge_hierarchy(p.argmax(0), p)
    contours = tree.contour_map().astype(np.float64)
    between = contours[1::2, 2:-1:2]
    for threshold in (0.0, 0.3, 0.6):
        labels = tree.labels_at(threshold)
        np.testing.assert_array_equal(labels[:, :-1] == labels[:, 1:], between <= threshold + 1e-6)
    assert tree.labels_at(1.0).max() == 0
    fine, coarse = tree.labels_at(0.3), tree.labels_at(0.6)
    assert all(len(np.unique(coarse[fine == label])) == 1 for label in np.unique(fine))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), st.integers(0, 999))
def test_components_are_those_of_scipy(H, W, K, seed):
    labels = np.random.default_rng(seed).integers(0, K, (H, W))
    found = components(labels)
    count = 0
    for label in range(K):
        numbered, number = ndimage.label(labels == label)
        count += number
        for index in range(1, number + 1):
            assert len(np.unique(found[numbered == index])) == 1
    assert found.max() + 1 == count


def test_region_scores_of_itself_and_against_scikit_learn():
    generator = np.random.default_rng(0)
    truth, other = generator.integers(0, 4, (10, 12)), generator.integers(3, 9, (10, 12))
    own = region_scores([truth, truth + 7], [truth])
    np.testing.assert_allclose(own.covering, 1)
    np.testing.assert_allclose(own.rand_index, 1)
    np.testing.assert_allclose(own.information, 0, atol=1e-12)
    scores = region_scores([other], [truth, other])
    expected = (rand_score(truth.ravel(), other.ravel()) + 1) / 2
    np.testing.assert_allclose(scores.rand_index, expected)


def test_benchmark_takes_the_best_of_the_set_and_of_each_image():
    truth = np.array([[0, 0, 1, 1]])
    whole = np.zeros((1, 4), dtype=int)
    pixels = np.arange(4)[None]
    first = region_scores([whole, truth, pixels], [truth])
    second = region_scores([whole, truth, pixels], [whole])
    found = benchmark([first, second])
    assert found["covering"].ods == pytest.approx((4 * 0.5 + 4) / 8)  # threshold 0: IoU 0.5 and 1
    assert found["covering"].ois == 1.0
    assert found["information"].ods == pytest.approx(0.5)
    assert found["information"].ois == 0.0
    assert found["rand_index"].ois == 1.0

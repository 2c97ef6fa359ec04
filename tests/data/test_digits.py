"""The embedded digits are scikit-learn's, and noise falls where the settings say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from routesearch.data import Digits

HERE = Path()


def test_they_are_scikit_learns_digits_at_16x16() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the original to compare with")
    original = datasets.load_digits()
    images = Digits().read(HERE).train
    assert images.labels.tolist() == original.target.tolist()
    small = torch.from_numpy(original.images)[:, None] / 16
    large = F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(images.pixels / 255.0, large.float(), atol=0.5 / 255 + 1e-6, rtol=0)
    assert images.pixels.dtype == torch.uint8


def test_three_splits() -> None:
    data = Digits().load(HERE)
    assert (len(data.train), len(data.validation), len(data.test)) == (1078, 360, 359)
    assert data.train.shape == data.shape == Digits.shape
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_noise_falls_on_a_share_of_each_class_and_leaves_the_rest(share: float) -> None:
    clean = Digits().read(HERE).train.pixels / 255.0
    images = Digits(noise=share, noise_std=1.5).read(HERE).train
    added = images.pixels - clean
    noisy = added.abs().amax((1, 2, 3)) > 1e-6
    assert int(noisy.sum()) == round(share * len(images))
    per_class = torch.bincount(images.labels[noisy], minlength=10)
    assert ((per_class - share * torch.bincount(images.labels)).abs() < 1).all()
    assert float(added[noisy].std() / clean.std()) == pytest.approx(1.5, rel=0.02)
    assert abs(float(added[noisy].mean())) < 0.01


def test_noise_of_no_strength_or_on_no_image_leaves_bytes() -> None:
    clean = Digits().read(HERE).train.pixels
    for dataset in (Digits(noise=0.0, noise_std=3.0), Digits(noise=1.0, noise_std=0.0)):
        assert torch.equal(dataset.read(HERE).train.pixels, clean)


@pytest.mark.parametrize(("share", "strength"), [(0.5, 1.5), (1.0, 100.0), (0.1, 0.01)])
def test_noise_leaves_black_and_white_as_far_as_declared(share: float, strength: float) -> None:
    data = Digits(noise=share, noise_std=strength).load(HERE)
    least, greatest = data.pixel_range
    darkest, lightest = (float(v) for v in data.train.pixels.aminmax())
    assert least <= darkest < 0
    assert 1 < lightest <= greatest
    assert greatest - least < 4 * (lightest - darkest) + 3
    assert Digits().load(HERE).pixel_range == (0, 1)


def test_noise_follows_the_split_seed_alone() -> None:
    torch.manual_seed(1)
    first = Digits(noise=0.5).load(HERE)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert Digits(noise=0.5).load(HERE).fingerprint() == first.fingerprint()


def test_another_split_seed_chooses_other_images_and_other_noise() -> None:
    clean = Digits().read(HERE).train.pixels / 255.0
    some = [Digits(noise=0.5, split_seed=seed).read(HERE).train.pixels - clean for seed in (0, 1)]
    chosen = [added.abs().amax((1, 2, 3)) > 1e-6 for added in some]
    assert 0.4 < float((chosen[0] == chosen[1]).float().mean()) < 0.6
    everywhere = [Digits(noise=1.0, split_seed=seed).read(HERE).train.pixels - clean for seed in (0, 1)]
    assert float((everywhere[0] - everywhere[1]).std()) > 1.2 * float(everywhere[0].std())

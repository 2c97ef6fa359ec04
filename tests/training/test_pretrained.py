"""Weights from files: read without running code, fitted tensor by tensor, refused in one line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from routesearch.backbones import VGG16, AlexNet, AlexNetCifar, DenseNet201, DenseNet201Cifar, NiN, ResNet101
from routesearch.backbones.base import Backbone
from routesearch.errors import Refusal
from routesearch.training.pretrained import content_digest, is_whole, read_weights

IMAGE = (3, 64, 64)


def state_of(backbone: Backbone, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(backbone.plain().state_dict())


def refusal(path: Path, backbone: Backbone) -> str:
    with pytest.raises(Refusal) as refused:
        read_weights(path, backbone)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
def test_own_names(name: str, pocket: Backbone, tmp_path: Path) -> None:
    state, path = state_of(pocket), tmp_path / name
    if name.endswith("s"):
        save_file(dict(reversed(state.items())), path)  # which sorts them anyway
    else:
        torch.save(state, path)
    found = read_weights(path, pocket)
    assert found.keys() == {key for key in state if "num_batches" not in key}
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    assert is_whole(found, pocket)


def test_old_files_of_torch_and_parameters(pocket: Backbone, tmp_path: Path) -> None:
    path, net = tmp_path / "w.pth", pocket.plain()
    values = {
        key: nn.Parameter(value) for key, value in net.state_dict().items() if value.is_floating_point()
    }
    torch.save(values, path, _use_new_zipfile_serialization=False)
    found = read_weights(path, pocket)
    assert not any(value.requires_grad for value in found.values())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in found.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_ours(dtype: torch.dtype, pocket: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({key: value.to(dtype) for key, value in state_of(pocket).items()}, path)
    assert {value.dtype for value in read_weights(path, pocket).values()} == {torch.float32}


def torchvisions(kind: type[Backbone], classes: int) -> Mapping[str, Tensor]:
    """A published checkpoint as it could be, shapes and random values."""
    from torchvision import models

    with torch.device("meta"):
        theirs = models.get_model(kind.name.removesuffix("_cifar"), num_classes=classes).state_dict()
    random = torch.Generator().manual_seed(0)
    return {
        name: t.new_zeros((), device="cpu")
        if not t.is_floating_point()
        else torch.randn(t.shape, generator=random)
        for name, t in theirs.items()
    }


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "kind", [AlexNet, ResNet101, DenseNet201, pytest.param(VGG16, marks=pytest.mark.slow)]
)
def test_torchvisions_names(kind: type[Backbone], ending: str, tmp_path: Path) -> None:
    """Tensors may come in any order: safetensors sorts. That torchvision's fits is tested by logits."""
    path, theirs = tmp_path / f"w.{ending}", torchvisions(kind, 7)
    save = torch.save if ending == "pth" else save_file
    save(dict(theirs), path)
    backbone = kind(IMAGE, 7)
    found = read_weights(path, backbone)
    expected = {name: t for name, t in theirs.items() if "num_batches" not in name}
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))
    with torch.device("meta"):
        ours = [name for name in backbone.plain().state_dict() if "num_batches" not in name]
    assert list(found) == ours


def test_a_densenet_under_its_old_names_and_without_counters(tmp_path: Path) -> None:
    theirs = torchvisions(DenseNet201, 5)
    old = {
        name.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): value
        for name, value in theirs.items()
        if "num_batches" not in name
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth", DenseNet201(IMAGE, 5))
    assert all(torch.equal(a, b) for a, b in zip(found.values(), old.values(), strict=True))


def test_a_class_layer_for_other_classes_is_left_fresh_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, theirs = tmp_path / "w.pth", torchvisions(AlexNet, 1000)
    torch.save(theirs, path)
    backbone = AlexNet(IMAGE, 7)
    with caplog.at_level("INFO", "routesearch"):
        found = read_weights(path, backbone)
    assert len(found) == len(theirs) - 2
    assert not {"head.8.weight", "head.8.bias"} & found.keys()
    assert not is_whole(found, backbone)
    assert "its class layer is for 1000 classes, the study has 7: that layer starts at random" in caplog.text


def test_a_class_layer_that_is_a_convolution(tmp_path: Path) -> None:
    path, narrow = tmp_path / "w.pth", NiN(IMAGE, 10, 0.1)
    torch.save(state_of(narrow), path)
    found = read_weights(path, NiN(IMAGE, 3, 0.1))
    layer = [name for name in state_of(narrow) if name.startswith("head")]
    assert state_of(narrow).keys() - found.keys() == set(layer)


# ---- what does not fit -------------------------------------------------------------------------------

RULE = "weights fit the stem, the width and the image channels that they were trained with"


@pytest.mark.parametrize(
    ("kind", "backbone", "misfit"),
    [
        (AlexNet, AlexNetCifar(IMAGE, 7), "features.0.weight must be 64x3x3x3 for backbone alexnet_cifar"),
        (
            DenseNet201,
            DenseNet201Cifar(IMAGE, 7),
            "features.conv0.weight must be 64x3x3x3 for backbone densenet201_cifar",
        ),
        (AlexNet, AlexNet(IMAGE, 7, 0.5), "features.0.weight must be 32x3x11x11 for backbone alexnet"),
        (
            AlexNet,
            AlexNet((1, 64, 64), 7),
            "features.0.weight must be 64x1x11x11 for backbone alexnet, got 64x3x11x11",
        ),
    ],
)
def test_another_stem_width_or_channels(
    kind: type[Backbone], backbone: Backbone, misfit: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(torchvisions(kind, 7), path)
    said = refusal(path, backbone)
    assert f"tensor {misfit}" in said
    assert said.endswith(RULE)


def test_the_first_misfit_is_named(pocket: Backbone, tmp_path: Path, own_backbone: ModuleType) -> None:
    path, state = tmp_path / "w.pth", state_of(pocket)

    def said(**changes: Tensor | None) -> str:
        renamed = {key.replace("__", "."): value for key, value in changes.items()}
        torch.save({k: v for k, v in (state | renamed).items() if v is not None}, path)
        return refusal(path, pocket)

    assert "tensor units.1.0.weight must be there for backbone pocket" in said(units__1__0__weight=None)
    assert "tensor more.weight must not be there" in said(more__weight=torch.ones(1))
    assert "units.2.1.bias must be 12 for backbone pocket, got 13" in said(units__2__1__bias=torch.ones(13))
    assert "units.2.1.bias must be 12 for backbone pocket, got one" in said(units__2__1__bias=torch.ones(()))
    assert "head.1.weight must be 3x12 for backbone pocket, got 5x11" in said(
        head__1__weight=torch.ones(5, 11)
    )
    assert "head.1.bias must be 3 for backbone pocket, got 5" in said(head__1__bias=torch.ones(5))
    broken = state["head.1.bias"].clone()
    broken[1] = torch.nan
    assert "tensor head.1.bias must hold finite numbers" in said(head__1__bias=broken)
    whole = state["head.1.bias"].long()
    assert "tensor head.1.bias must hold finite numbers" in said(head__1__bias=whole)
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    assert "units.0.0.weight must be there for backbone pocket, got none, but tensor module." in refusal(
        path, pocket
    )


# ---- files that cannot be read -----------------------------------------------------------------------


class Code:
    """What a hostile file could run: making a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "start", "text", "folder", "missing"])
def test_damaged_files(damage: str, ending: str, pocket: Backbone, tmp_path: Path) -> None:
    path = tmp_path / f"w.{ending}"
    (torch.save if ending == "pth" else save_file)(state_of(pocket), path)
    whole = path.read_bytes()
    if damage in ("folder", "missing"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
        assert refusal(path, pocket).startswith("weights must be a readable file, got ")
        with pytest.raises(Refusal, match=r"^weights must be a readable file, got "):
            content_digest(path)
        return
    path.write_bytes({"empty": b"", "cut": whole[:-300], "start": whole[:60], "text": b"hello" * 99}[damage])
    assert refusal(path, pocket).startswith("weights must be a whole file of tensors: ")


@pytest.mark.parametrize("how", ["zip", "old", "pickle"])
def test_code_in_a_file_is_not_run(how: str, pocket: Backbone, tmp_path: Path) -> None:
    path, made = tmp_path / "w.pth", tmp_path / "made"
    values = {**state_of(pocket), "more": Code(made)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(values["more"], protocol=2))
    else:
        torch.save(values, path, _use_new_zipfile_serialization=how == "zip")
    said = refusal(path, pocket)
    assert said.startswith("weights must be a whole file of tensors: ")
    assert "mkdir" in said
    assert not made.exists()


def test_a_whole_network_or_checkpoint_is_no_state_dict(pocket: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(nn.Linear(2, 2), path)
    assert refusal(path, pocket).endswith("asks for torch.nn.modules.linear.Linear")
    torch.save({"epoch": 3, "state_dict": state_of(pocket)}, path)
    assert refusal(path, pocket).endswith("must be a state dict, name to tensor, got 'epoch': int")
    torch.save([torch.ones(2)], path)
    assert refusal(path, pocket).endswith("must be a state dict, name to tensor, got list")
    torch.save({"a": torch.ones(2).to_sparse()}, path)
    assert refusal(path, pocket).endswith("must be a state dict, name to tensor, got 'a': Tensor")

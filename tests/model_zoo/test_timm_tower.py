"""Any timm backbone: the right feature map, the right weights, and nothing that depends on the rest of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import ConfigError, DataError
from harness.types import Example
from model_zoo import timm_tower
from model_zoo.pix2seq import Pix2Seq
from model_zoo.timm_tower import TimmTower, position_encoding, problems, weights_file

CNN, VIT = "test_resnet", "test_vit"  # timm's own smallest: 0.4 and 0.3 million parameters


def tower(backbone: str, stride: int = 16, weights: str = "random", size: int = 64) -> TimmTower:
    torch.manual_seed(0)
    return TimmTower(backbone, size, stride, weights)


def some_images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a timm model with random weights and statistics; gives the model in eval mode and the file."""

    def write(backbone: str, **changes: Any) -> tuple[Any, Path]:
        torch.manual_seed(5)
        model = timm.create_model(backbone, num_classes=7, **changes)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
        path = tmp_path / "backbone.safetensors"
        save_file(model.state_dict(), path)
        return model.eval(), path

    return write


# ---- the feature map -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [CNN, VIT, "resnet10t", "test_convnext", "test_efficientnet"])
def test_every_kind_of_backbone_gives_tokens_and_has_no_idle_layer(backbone: str) -> None:
    ours = tower(backbone)
    tokens = ours(some_images())
    assert ours.grid == (4, 4)
    assert tokens.shape == (3, 16, ours.width)
    tokens.square().sum().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("stride", "side"), [(4, 16), (8, 8), (15, 8), (16, 4), (32, 2), (64, 2)])
def test_stride_chooses_the_feature_map(stride: int, side: int) -> None:
    ours = tower(CNN, stride)
    assert ours.grid == (side, side)
    assert ours(some_images(1)).shape == (1, side * side, ours.width)


def test_tokens_are_row_by_row() -> None:
    """A change in the upper right corner is felt at the end of the first row, and hardly in the last one."""
    ours = tower(CNN, stride=4).eval()
    image = some_images(1)
    changed = image.clone()
    changed[..., :4, -4:] += 1.0
    with torch.no_grad():
        difference = (ours(changed) - ours(image)).abs().amax(-1)[0].view(16, 16)
    assert difference[:2, -2:].max() == difference.max()
    assert difference[0, -1] > 20 * difference[-1, 0]  # which group normalisation reaches


@pytest.mark.parametrize(
    ("backbone", "size", "stride", "message"),
    [
        (CNN, 64, 1, "stride: expected at least 2 for test_resnet, got 1"),
        (VIT, 64, 8, "stride: expected at least 16 for test_vit, got 8"),
        (VIT, 70, 16, "timm's test_vit gives no features at image_size 70, stride 16"),
        ("vit_tiny_patch16_224", 70, 16, "vit_tiny_patch16_224 expects a multiple of 16, so that the edges are seen"),
        ("convnext_atto", 70, 16, "convnext_atto expects a multiple of 16"),
    ],
)
def test_sizes_that_do_not_go_together_are_named(backbone: str, size: int, stride: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TimmTower(backbone, size, stride, "random")


# ---- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [CNN, "test_efficientnet"])
@pytest.mark.parametrize("from_file", [False, True])
def test_nothing_depends_on_the_batch_or_on_training(backbone: str, from_file: bool, written: Any) -> None:
    ours = tower(backbone, weights=str(written(backbone)[1]) if from_file else "random").train()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    images = some_images()
    joint = ours(images)
    alone = torch.cat([ours(image[None]) for image in images])
    torch.testing.assert_close(joint, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.eval()(images), joint, atol=0, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


# ---- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "index"), [(CNN, 3), (VIT, 5)])
def test_features_of_a_file_are_those_of_timm(backbone: str, index: int, written: Any) -> None:
    sized = {"img_size": 64} if backbone == VIT else {}
    reference, path = written(backbone, **sized)
    ours = tower(backbone, weights=str(path)).train()
    with torch.no_grad():
        (expected,) = reference.forward_intermediates(
            some_images(), indices=[index], intermediates_only=True, output_fmt="NCHW"
        )
        features = ours(some_images())
    torch.testing.assert_close(features, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
    assert ours.file == path


def test_position_embeddings_of_another_image_size_are_resampled(written: Any) -> None:
    reference, path = written(VIT, img_size=160)
    state = tower(VIT, weights=str(path)).state_dict()
    embedding = state["body.model.pos_embed"]
    assert reference.pos_embed.shape == (1, 1 + 100, 64)  # the first is of the class token
    assert embedding.shape == (1, 1 + 16, 64)
    patches = reference.pos_embed.detach()[0, 1:].T.reshape(1, 64, 10, 10)
    expected = nn.functional.interpolate(patches, size=(4, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(embedding[0, 1:].T.reshape(1, 64, 4, 4), expected)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight missing"),
        (lambda state: state.update({"conv1.0.weight": torch.zeros(2, 3, 3, 3)}), "conv1.0.weight: expected"),
    ],
)
def test_a_file_that_does_not_fit_names_what_is_wrong(damage: Any, message: str, written: Any) -> None:
    model, path = written(CNN)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    damage(state)
    save_file(state, path)
    with pytest.raises(DataError, match=f"does not fit timm's test_resnet: {message}"):
        tower(CNN, weights=str(path))


def test_a_missing_file_and_one_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.safetensors: no such weights file"):
        tower(CNN, weights=str(tmp_path / "none.safetensors"))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pickled.pth")
    with pytest.raises(DataError, match=r"pickled\.pth: expected a safetensors file"):
        tower(CNN, weights=str(tmp_path / "pickled.pth"))


def test_the_hub_is_asked_for_one_revision_of_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def download(*args: Any, **named: Any) -> str:
        asked.append((*args, named))
        return str(tmp_path / "weights")

    monkeypatch.setattr(timm_tower, "hf_hub_download", download)
    assert weights_file("hub:timm/resnet10t.c3_in1k@v1.0") == tmp_path / "weights"
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors", {"revision": "v1.0"})]
    assert weights_file("random") is None


def test_a_hub_out_of_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("no route\nto the host")

    monkeypatch.setattr(timm_tower, "hf_hub_download", download)
    with pytest.raises(DataError, match=r"hub:timm/resnet10t@v1: cannot be downloaded \(no route\); give a file"):
        weights_file("hub:timm/resnet10t@v1")


@pytest.mark.parametrize("weights", ["hub:timm/resnet10t", "hub:@v1", "hub:timm/resnet10t@", 3])
def test_weights_without_a_revision_are_refused(weights: object) -> None:
    (problem,) = Pix2Seq.problems({"backbone": CNN, "backbone_weights": weights})
    assert "backbone_weights: expected" in problem
    assert "OWNER/NAME@REVISION" in problem


def test_an_unknown_backbone_comes_with_a_suggestion() -> None:
    (problem,) = problems("resnet10")
    assert problem.startswith("unknown timm model 'resnet10', did you mean 'resnet1")
    assert len(problem) < 200  # timm has more than a thousand
    assert problems(VIT) == []


# ---- pixels and places ---------------------------------------------------------------------------------------------


def test_pixels_are_normalised_as_timm_says(tmp_path: Path) -> None:
    """resnet10t: mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225; red 255, green 51, blue 0 are 1, 0.2, 0."""
    picture = np.zeros((30, 50, 3), np.uint8)
    picture[...] = (255, 51, 0)
    Image.fromarray(picture).save(tmp_path / "image.png")
    (pixels,) = tower("resnet10t").pixels([Example(1, tmp_path / "image.png", 50, 30, ())])
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.float32
    expected = torch.tensor([(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225])
    torch.testing.assert_close(pixels, expected[:, None, None].expand(3, 64, 64), atol=1e-5, rtol=1e-5)


def test_position_encoding_by_hand() -> None:
    """One frequency, a quarter of a cycle per side: the places 1/4 and 3/4 are pi/8 and 3 pi/8; x is at 1/2, pi/4."""
    expected = [[0.38268, 0.92388, 0.70711, 0.70711], [0.92388, 0.38268, 0.70711, 0.70711]]
    torch.testing.assert_close(position_encoding(2, 1, 4), torch.tensor(expected), atol=1e-5, rtol=0)


def test_position_encoding_tells_rows_from_columns() -> None:
    encoding = position_encoding(5, 7, 32).view(5, 7, 32)
    assert torch.equal(encoding[:, :1, :16].expand(5, 7, 16), encoding[..., :16])
    assert torch.equal(encoding[:1, :, 16:].expand(5, 7, 16), encoding[..., 16:])
    assert torch.pdist(encoding.flatten(0, 1)).min() > 0.3

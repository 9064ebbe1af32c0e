"""What OpenFlamingo over tokenizers sees: towers of open_clip, and boxes where the model sees the object."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from harness.errors import DataError
from harness.types import Box, Example
from model_zoo.flamingo import vision as flamingo_vision
from tests.model_zoo.flamingo.toys import fresh, logits_of
from tests.support import small


def test_a_tower_of_open_clip_reads_clips_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are those of open_clip's own model; its text half is left in the file."""
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 7, "vocab_size": 11, "width": 64, "heads": 1, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-mini", config)
    torch.manual_seed(5)
    whole = open_clip.CLIP(embed_dim=16, vision_cfg={**vision, "output_tokens": True}, text_cfg=text, quick_gelu=True)
    save_file({n: t.contiguous() for n, t in whole.state_dict().items()}, tmp_path / "clip.safetensors")
    made = flamingo_vision.build("ViT-mini", str(tmp_path / "clip.safetensors"), 224)
    whole.eval()
    made.tower.eval()
    pixels = made.pixels(small.train_examples(2))
    assert pixels.shape == (2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(made.tower(pixels)[1], whole.visual(pixels)[1])
    adapter = fresh(vision="ViT-mini", vision_weights=str(tmp_path / "clip.safetensors"))
    assert logits_of(adapter).isfinite().all()
    save_file({"visual.proj": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="weights do not fit the model: class_embedding missing"):
        flamingo_vision.build("ViT-mini", str(tmp_path / "other.safetensors"), 224)


def _painted(path: Path, mode: str, orientation: int = 1) -> Example:
    """A picture of 40 x 20 as it is shown: white, with red in the box (10, 5, 20, 10)."""
    shown = Image.new("RGB", (40, 20), "white")
    shown.paste((255, 0, 0), (10, 5, 30, 15))
    if orientation == 6:
        shown = shown.transpose(Image.Transpose.ROTATE_90)  # stored lying on its side
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown.convert(mode).save(path, exif=exif)
    return Example(1, path, 40, 20, ())


@pytest.mark.parametrize(
    ("name", "mode", "orientation"), [("a.png", "RGB", 6), ("a.tif", "CMYK", 1), ("a.png", "P", 1)]
)
def test_the_box_lies_where_the_model_sees_the_object(tmp_path: Path, name: str, mode: str, orientation: int) -> None:
    """Colours and orientation are handled before the picture is squeezed: the pixels inside the box are red."""
    adapter = fresh()
    example = _painted(tmp_path / name, mode, orientation)
    raw = adapter.pixels([example])[0] * flamingo_vision.STD[:, None, None] + flamingo_vision.MEAN[:, None, None]
    red = (raw[0] > 0.9) & (raw[1] < 0.1) & (raw[2] < 0.1)
    space = adapter.codec.space
    box = space.restore(space.quantise(Box(10, 5, 20, 10), 40, 20), 64, 64)
    assert box == Box(16, 16, 32, 32)
    assert red[18:46, 18:46].all()
    assert red.sum() <= 34 * 34

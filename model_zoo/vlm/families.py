"""Lists the vision-language families of transformers by their names in a suite file. Another package brings one by
the entry-point group `detmodes.families`."""

from __future__ import annotations

from harness.extensions import Extended
from model_zoo.vlm.family import Family
from model_zoo.vlm.florence2 import FLORENCE2
from model_zoo.vlm.idefics import IDEFICS
from model_zoo.vlm.kosmos2 import KOSMOS2
from model_zoo.vlm.paligemma import PALIGEMMA, PALIGEMMA2
from model_zoo.vlm.qwen import QWEN2_5_VL, QWEN3_VL

OURS: dict[str, Family] = {
    "paligemma": PALIGEMMA,
    "paligemma2": PALIGEMMA2,
    "kosmos2": KOSMOS2,
    "florence2": FLORENCE2,
    "idefics": IDEFICS,
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen3_vl": QWEN3_VL,
}

FAMILIES = Extended("family", OURS, lambda part: isinstance(part, Family))

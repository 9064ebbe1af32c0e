"""A vision-language family of another package: PaliGemma, asked otherwise."""

from __future__ import annotations

from dataclasses import replace

from model_zoo.vlm.paligemma import PALIGEMMA

FAMILY = replace(PALIGEMMA, question="name all")

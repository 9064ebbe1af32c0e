"""Answers in each family's format, and what is read of them, by hand."""

from __future__ import annotations

PALIGEMMA_GOLDENS: dict[str, tuple[str, list[str], int]] = {
    "two": (
        "<loc0001><loc0001><loc0009><loc0009> sofa ; <loc0001><loc0001><loc0009><loc0009> couch",
        ["sofa", "couch"],
        0,
    ),
    "name first": (" sofa<loc0001><loc0001><loc0009><loc0009>", [], 1),
    "no name": ("<loc0001><loc0001><loc0009><loc0009>", [], 1),
    "three locations": ("<loc0001><loc0001><loc0009> sofa", [], 1),
    "no separator": ("<loc0001><loc0001><loc0009><loc0009> sofa<loc0001><loc0001><loc0009><loc0009> couch", [], 1),
    "separator at the end": ("<loc0001><loc0001><loc0009><loc0009> sofa ; ", ["sofa"], 1),
    "no area": ("<loc0009><loc0001><loc0009><loc0009> sofa", [], 1),
}
FLORENCE_GOLDENS: dict[str, tuple[str, list[str], int]] = {
    "three": (
        "sofa<loc_1><loc_1><loc_9><loc_9>couch<loc_1><loc_1><loc_9><loc_9>sofa<loc_1><loc_1><loc_9><loc_9>",
        ["sofa", "couch", "sofa"],
        0,
    ),
    "a box without a name": ("<loc_1><loc_1><loc_9><loc_9>couch<loc_1><loc_1><loc_9><loc_9>", ["couch"], 1),
    "two boxes": (
        "sofa<loc_1><loc_1><loc_9><loc_9><loc_2><loc_1><loc_9><loc_9>couch<loc_1><loc_1><loc_9><loc_9>",
        ["sofa", "sofa", "couch"],
        0,
    ),
    "a box and a half": (
        "sofa<loc_1><loc_1><loc_9><loc_9><loc_2><loc_1>couch<loc_1><loc_1><loc_9><loc_9>",
        ["sofa", "couch"],
        1,
    ),
    "two boxes without a name": (
        "<loc_1><loc_1><loc_9><loc_9>" * 2 + "couch<loc_1><loc_1><loc_9><loc_9>",
        ["couch"],
        2,
    ),
    "a name at the end": ("sofa<loc_1><loc_1><loc_9><loc_9>couch", ["sofa"], 1),
}
PHRASE, PLACE = "<phrase> sofa</phrase>", "<object><patch_index_0033><patch_index_0099></object>"
AGAIN = "</delimiter_of_multi_objects/>"
TWO_PLACES = PLACE.replace("</object>", f"{AGAIN}<patch_index_0070><patch_index_0200></object>")
KOSMOS_GOLDENS: dict[str, tuple[str, list[str], int]] = {
    "two": (PHRASE + PLACE + PHRASE + PLACE, ["sofa", "sofa"], 0),
    "no phrase mark": (f" sofa</phrase>{PLACE}", [], 1),
    "no object mark at the end": (PHRASE + PLACE.removesuffix("</object>"), [], 1),
    "no object mark at the start": (PHRASE + PLACE.removeprefix("<object>"), [], 1),
    "one patch": (f"{PHRASE}<object><patch_index_0033></object>", [], 1),
    "inverted": (f"{PHRASE}<object><patch_index_0099><patch_index_0033></object>{PHRASE}{PLACE}", ["sofa"], 1),
    "the end of a place in the name": (f"<phrase> sofa</object> sofa</phrase>{PLACE}", [], 1),
    "the start of a place in the name": (f"<phrase> sofa<object> sofa</phrase>{PLACE}", ["sofa<object> sofa"], 0),
    "only an opening": ("<phrase>", [], 1),
    "two boxes": (PHRASE + TWO_PLACES + PHRASE + PLACE, ["sofa", "sofa", "sofa"], 0),
    "nothing after a box": (PHRASE + PLACE.replace("</object>", f"{AGAIN}</object>"), ["sofa"], 1),
    "a box between boxes that is none": (
        f"{PHRASE}<object><patch_index_0033>{AGAIN}<patch_index_0033><patch_index_0099></object>",
        ["sofa"],
        1,
    ),
    "the mark between boxes in the name": (f"<phrase> sofa{AGAIN} sofa</phrase>{PLACE}", [], 2),
}
GOLDENS = [
    (family, text, names, malformed)
    for family, goldens in (
        ("paligemma", PALIGEMMA_GOLDENS),
        ("florence", FLORENCE_GOLDENS),
        ("kosmos", KOSMOS_GOLDENS),
    )
    for text, names, malformed in goldens.values()
]

import itertools
import re
from importlib import resources
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.report.svg import (
    COLOURS,
    LABEL_GAP,
    REFERENCE,
    Line,
    difference_chart,
    line_chart,
    model_look,
    rating_frame,
    reference_look,
    small_frame,
    spread,
    stacked_chart,
    swatch,
)

FRAME = rating_frame(4, 2)


def line(name, values, look=None, half=0.2, entry=0):
    low, high = ([None if v is None else v + s * half for v in values] for s in (-1, 1))
    return Line(entry, name, look or model_look(0), values, low, high)


def parsed(svg):
    return ElementTree.fromstring(svg)


def test_a_chart_is_sound_xml_and_breaks_where_a_turn_is_missing():
    values = [2.0, 3.0, None, 4.0]
    other = Line(1, "z", reference_look(0), [2.5, 3.5, 3.0, 4.5])
    root = parsed(line_chart([line("x & <y>", values), other], FRAME, 'A "title"'))
    curves = [group for group in root.findall("g") if group.get("class") == "e curve c0"]
    runs = [curve.get("points").split() for curve in curves[0].findall("polyline")]
    assert [len(run) for run in runs] == [2, 1]
    heights = [float(point.split(",")[1]) for point in runs[0]]
    assert heights[1] < heights[0]  # a higher rating lies higher
    assert len(root.findall("g[@class='column']")) == 4
    assert [group.get("data-entry") for group in curves] == ["0"]
    assert not root.findall("g[@class='e band ref']")


@pytest.mark.parametrize("values", [[3.0], [None, None], [None, 2.0], [1.0] * 40])
def test_charts_of_odd_lengths(values):
    for frame in (rating_frame(len(values), 1), small_frame([line("a", values)], len(values), share=True)):
        parsed(line_chart([line("a", values)], frame, "a"))


@given(st.lists(st.floats(14, 382), max_size=12).map(sorted))
def test_labels_never_overlap_and_stay_in_the_chart(wanted):
    places = spread(wanted, rating_frame(10, len(wanted)))
    assert len(places) == len(wanted)
    assert all(b - a >= LABEL_GAP - 1e-6 for a, b in itertools.pairwise(places))
    assert all(14 - 1e-6 <= place <= 382 + 1e-6 for place in places)
    if all(b - a >= LABEL_GAP for a, b in itertools.pairwise(wanted)):
        assert places == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("values", "share", "ticks"),
    [
        ([9.3, 12.5], False, ["0", "5", "10", "15"]),
        ([0.02, 0.11], True, ["0%", "5%", "10%", "15%"]),
        ([-0.6, 6.7], False, ["\N{MINUS SIGN}2", "0", "2", "4", "6", "8"]),
        ([0.0, 0.0], True, ["0%", "5%", "10%"]),
        ([], False, None),
    ],
)
def test_small_charts_have_round_ticks_that_hold_everything(values, share, ticks):
    frame = small_frame([line("a", values)] if values else [], 10, share)
    assert ticks is None or [text for _, text in frame.ticks] == ticks
    assert all(frame.least <= value <= frame.most for value in values)


def test_a_stack_is_as_high_as_the_votes_that_are_there():
    root = parsed(stacked_chart([[1, 0, 2, 3, 4], [0, 0, 5, 0, 0]], 10, "t"))
    bars = [rect for rect in root.findall("rect") if rect.get("class").startswith("r")]
    full = {rect.get("x"): 0.0 for rect in bars}
    for rect in bars:
        full[rect.get("x")] += float(rect.get("height")) + 0.8
    whole, half = full.values()
    assert half == pytest.approx(whole / 2, abs=1)
    assert len(root.findall("rect[@class='gap']")) == 1
    assert [rect.get("class") for rect in bars] == ["r1", "r3", "r4", "r5", "r3"]


def test_a_difference_is_drawn_on_its_side_of_zero():
    def places(*values):
        root = parsed(difference_chart(*values, (-1.0, 1.0), strong=False))
        return float(root.find("circle").get("cx")), float(root.find("line").get("x1"))

    right, zero = places(0.5, 0.2, 0.8)
    left, _ = places(-0.5, -0.8, -0.2)
    assert left < zero < right and right - zero == pytest.approx(zero - left)
    parsed(difference_chart(None, None, None, (0.0, 0.0), False))


def test_sixty_models_look_different_and_so_do_references():
    assert len({model_look(index) for index in range(60)}) == 60
    assert len({reference_look(index) for index in range(3)}) == 3
    for index in range(6):
        parsed(swatch(model_look(index)))
    # Neighbours differ in all three, so that any one of them is enough.
    for a, b in itertools.pairwise(map(model_look, range(12))):
        assert a.style != b.style and a.dash != b.dash and a.marker != b.marker


# ---------------------------------------------------------------- colours of the page


def palettes():
    style = resources.files("aloe_jax.report").joinpath("page/style.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\n\}", style, re.S)[:2]
    )
    return {"light": light, "dark": light | dark}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_a_contrast_of_at_least_4_5(scheme):
    colours = palettes()[scheme]
    grounds = ["page", "card"]
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent", "warn", "ref") for ground in grounds]
    pairs += [(f"c{i}", ground) for i in range(len(COLOURS)) for ground in grounds]
    pairs += [(f"on{rating}", f"r{rating}") for rating in range(1, 6)]
    pairs += [("ink", ground) for ground in ("note", "alarm", "known", "new", "user", "fill")] + [("warn", "alarm")]
    poor = {f"{a} on {b}": c for a, b in pairs if (c := round(contrast(colours[a], colours[b]), 2)) < 4.5}
    assert poor == {}
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_figure_and_page_have_the_same_colours():
    light = palettes()["light"]
    assert tuple(light[f"c{i}"] for i in range(len(COLOURS))) == COLOURS and light["ref"] == REFERENCE

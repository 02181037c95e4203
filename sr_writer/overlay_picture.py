"""Pixels of an overlay: the picture under its heat map, and a panel beside it that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inference.findings import Presence, Thresholds
from sr_writer.colour_map import LEVELS, blend
from sr_writer.shown import ShownPicture

PICTURE_SIZE = 1024
"""Longer side of the picture in the overlay, in pixels."""

PANEL_WIDTH = 368
"""Width of the panel, in pixels."""

LEAST_HEIGHT = 760
"""Height in pixels that the panel needs with one statement and without a title."""

LINE_HEIGHT = 33
"""Height in pixels of a line of a title or statement."""

DISCLAIMER_CHARACTERS = 24
"""Characters of the disclaimer that surely fit on a line."""

_MARGIN = 28
_TEXT_WIDTH = PANEL_WIDTH - 2 * _MARGIN
"""Width of the panel's lines, in pixels."""

_BACKGROUND = (14, 17, 21)
_TEXT = (236, 239, 242)
_FAINT_TEXT = (160, 168, 178)
_WARNING = (255, 196, 64)
_RULE_COLOUR = (58, 65, 74)
_OUTLINE = (96, 224, 255)
_SCALE_BACKGROUND = 96
"""Grey value under the colour scale, about that of soft tissue."""

_PRESENCE_COLOURS = {
    Presence.PRESENT: (255, 138, 96),
    Presence.INDETERMINATE: (255, 214, 120),
    Presence.ABSENT: (150, 214, 160),
}

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Legend:
    """Texts and values of the panel; all texts are plain ASCII.

    ``title`` says which slice or lesion is shown if there are several. Each of ``statements`` starts a line.
    """

    finding: str
    title: str
    probability: float
    deviation: float | None
    """Standard deviation of the probability over ensemble members and augmented views, None if there is only one."""
    thresholds: Thresholds
    presence: Presence
    statements: tuple[str, ...]
    method: str
    engine: str
    model: str
    version: str
    notices: tuple[str, ...]
    disclaimer: str


def draw_overlay(shown: ShownPicture, legend: Legend) -> Image.Image:
    """Draw an overlay: the picture on the left, scaled to ``PICTURE_SIZE`` on its longer side, and the panel right.

    Returns:
        A picture of mode RGB.
    """
    rows, columns = shown.picture.shape
    scale = PICTURE_SIZE / max(rows, columns)
    size = (max(round(columns * scale), 1), max(round(rows * scale), 1))
    blended = blend(
        _resized(shown.picture, size, Image.Resampling.BICUBIC),
        _resized(_levels(shown.heatmap.values), size, Image.Resampling.BILINEAR),
    )
    _outline_regions(blended, shown)
    # A title takes up to two lines.
    more_lines = len(legend.statements) - 1 + (2 if legend.title else 0) + (legend.deviation is not None)
    more_lines += -(-len(legend.disclaimer) // DISCLAIMER_CHARACTERS)
    height = max(size[1], LEAST_HEIGHT + LINE_HEIGHT * more_lines)
    canvas = Image.new("RGB", (size[0] + PANEL_WIDTH, height), _BACKGROUND)
    if height > size[1]:
        canvas.paste((0, 0, 0), (0, 0, size[0], height))
    canvas.paste(blended, (0, (height - size[1]) // 2))
    _Panel(canvas, left=size[0] + _MARGIN).draw(legend)
    return canvas


def _levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Levels of the colour map for values of a heat map in [0, 1], of the same shape."""
    levels = np.clip(values, 0.0, 1.0)
    levels *= LEVELS - 1
    return np.rint(levels, out=levels).astype(np.uint8)


def _resized(
    grey: NDArray[np.uint8], size: tuple[int, int], resampling: Image.Resampling
) -> NDArray[np.uint8]:
    """A picture of shape (rows, columns) in another size (columns, rows)."""
    if grey.shape[::-1] == size:
        return grey
    return np.asarray(Image.fromarray(grey).resize(size, resampling))


def _outline_regions(blended: Image.Image, shown: ShownPicture) -> None:
    """Draw the regions as thin closed lines with a dark edge."""
    scale = np.array([blended.width / shown.source.columns, blended.height / shown.source.rows])
    draw = ImageDraw.Draw(blended)
    for region in shown.regions:
        points = [(float(x), float(y)) for x, y in np.vstack([region.points, region.points[:1]]) * scale]
        draw.line(points, fill=(0, 0, 0), width=5, joint="curve")
        draw.line(points, fill=_OUTLINE, width=2, joint="curve")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of text: how much of the colour each of its pixels takes (mode L), and where its left upper pixel is."""

    mask: Image.Image
    offset: tuple[int, int]


_LINES_KEPT = 256
"""Lines of text that are kept as they were drawn, of 25 KB at most: most of a panel is the same for a model."""


@lru_cache(maxsize=_LINES_KEPT)
def _line(text: str, size: int) -> _Line:
    font = _font(size)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font)
    return _Line(mask=mask, offset=(left, top))


@lru_cache(maxsize=_LINES_KEPT)
def _wrapped(text: str, size: int) -> tuple[str, ...]:
    """Lines that fit into the panel; a word that is longer than a line is broken."""
    font = _font(size)
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}".strip()
        if font.getlength(joined) <= _TEXT_WIDTH:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while font.getlength(line) > _TEXT_WIDTH:
            fitting = next(n for n in range(len(line), 0, -1) if font.getlength(line[:n]) <= _TEXT_WIDTH)
            lines.append(line[:fitting])
            line = line[fitting:]
    return (*lines, line) if line else tuple(lines)


@cache
def _colour_scale() -> Image.Image:
    """The colours from 0 to 1 as they look over soft tissue, with the values below them."""
    levels = np.linspace(0, LEVELS - 1, _TEXT_WIDTH).astype(np.uint8)[np.newaxis].repeat(24, axis=0)
    scale = Image.new("RGB", (_TEXT_WIDTH, 60), _BACKGROUND)
    scale.paste(blend(np.full_like(levels, _SCALE_BACKGROUND), levels), (0, 0))
    draw, font = ImageDraw.Draw(scale), _font(20)
    for value in (0.0, 0.5, 1.0):
        text = f"{value:g}"
        draw.text((value * (_TEXT_WIDTH - font.getlength(text)), 30), text, fill=_TEXT, font=font)
    return scale


class _Panel:
    """The panel, drawn from top to bottom; its last lines are aligned with the bottom."""

    def __init__(self, canvas: Image.Image, *, left: int) -> None:
        self._canvas = canvas
        self._draw = ImageDraw.Draw(canvas)
        self._left = left
        self._y = _MARGIN

    def draw(self, legend: Legend) -> None:
        """Draw the whole legend."""
        for notice in legend.notices:
            self._write(notice, 24, _WARNING)
        self._write(legend.disclaimer, 22, _WARNING)
        self._separator()
        self._write("Finding", 20, _FAINT_TEXT)
        self._write(legend.finding.replace("_", " "), 38, _TEXT)
        self._write(legend.title, 24, _TEXT)
        self._skip(10)
        self._write("Certainty", 20, _FAINT_TEXT)
        self._write(f"{100.0 * legend.probability:.0f} %", 64, _TEXT)
        if legend.deviation is not None:
            self._write(f"standard deviation {100.0 * legend.deviation:.1f} %", 22, _TEXT)
        self._certainty_bar(legend.probability, legend.thresholds)
        self._write(f"Presence: {legend.presence}", 26, _PRESENCE_COLOURS[legend.presence])
        for statement in legend.statements:
            self._write(statement, 26, _TEXT)
        self._separator()
        self._write(f"Colours: {legend.method}", 22, _TEXT)
        self._write("where the model looked", 20, _FAINT_TEXT)
        self._skip(8)
        self._canvas.paste(_colour_scale(), (self._left, self._y))
        self._skip(60)
        lines = [f"Engine {legend.engine}", f"Model {legend.model}", f"Version {legend.version}"]
        self._write_at_bottom(lines)

    def _write(self, text: str, size: int, colour: Colour) -> None:
        for part in _wrapped(text, size):
            line = _line(part, size)
            x, y = line.offset
            self._canvas.paste(colour, (self._left + x, self._y + y), line.mask)
            self._y += round(size * 1.25)

    def _write_at_bottom(self, lines: list[str]) -> None:
        size = 20
        count = sum(len(_wrapped(line, size)) for line in lines)
        self._y = max(self._y, self._canvas.height - _MARGIN - round(count * size * 1.25))
        for line in lines:
            self._write(line, size, _FAINT_TEXT)

    def _skip(self, pixels: int) -> None:
        self._y += pixels

    def _separator(self) -> None:
        self._skip(14)
        self._draw.line((self._left, self._y, self._left + _TEXT_WIDTH, self._y), fill=_RULE_COLOUR, width=2)
        self._skip(18)

    def _certainty_bar(self, probability: float, thresholds: Thresholds) -> None:
        """Draw the probability as a bar from 0 to 1, with marks at the low, high and critical threshold."""
        self._skip(8)
        top, bottom = self._y, self._y + 14
        self._draw.rectangle((self._left, top, self._left + _TEXT_WIDTH, bottom), fill=_RULE_COLOUR)
        self._draw.rectangle((self._left, top, self._left + _TEXT_WIDTH * probability, bottom), fill=_TEXT)
        for threshold in (thresholds.low, thresholds.high, thresholds.critical):
            x = self._left + _TEXT_WIDTH * threshold
            self._draw.line((x, top - 5, x, bottom + 5), fill=_WARNING, width=2)
        self._y = bottom + 8
        self._write("marks: low, high, critical threshold", 16, _FAINT_TEXT)
        self._skip(8)

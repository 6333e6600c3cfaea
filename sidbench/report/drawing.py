"""Drawing: one look for all charts, and Vega-Lite to SVG that reads the same in a page, a file and print."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

#: Every colour on a light ground and on a dark one. Hues after Okabe and Ito: told apart by every eye.
COLOURS = {
    "#1f2328": "#e6edf3",  # ink
    "#59636e": "#9aa4af",  # muted
    "#d9dee4": "#30363d",  # grid
    "#0072b2": "#58b1e8",  # blue
    "#d55e00": "#ff8f45",  # vermilion
    "#009e73": "#35c99b",  # green
    "#b4578f": "#e39ac5",  # purple
    "#3f9bd1": "#a5d8f7",  # sky
    "#c98700": "#f2bc4b",  # orange
    "#6e7781": "#8b949e",  # grey
    # A scale of six steps, from little to much, and what stands on its ends.
    "#eef3f8": "#1b2430",
    "#cfe1ef": "#1f3d57",
    "#9dc6e0": "#25608a",
    "#5ba3cf": "#3186bd",
    "#2474b1": "#62aee0",
    "#0b4a86": "#b3dcf7",
    "#f6e7d8": "#4a2f1a",  # nothing at all
    "#10151b": "#eaf1f7",  # on the light end
    "#fdfdfe": "#0d1117",  # on the dark end
}
INK, MUTED, GRID, BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY = list(COLOURS)[:10]
STEPS, NOTHING, ON_LIGHT, ON_DARK = list(COLOURS)[10:16], *list(COLOURS)[16:]
HUES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY)
DASHES = ([1, 0], [5, 3], [2, 2])

#: The first is what text is measured with, wherever the picture is drawn.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
SIZE = 11
#: Pixels of a name that are shown; who points at it reads the rest.
WIDEST = 170
#: The mean width of a character, of its height.
_WIDE = 0.54

_CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "domainColor": GRID,
        "gridColor": GRID,
        "gridOpacity": 0.7,
        "tickColor": GRID,
        "labelColor": MUTED,
        "labelFontSize": SIZE,
        "labelLimit": WIDEST,
        "titleColor": MUTED,
        "titleFontSize": SIZE,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "header": {
        "labelColor": MUTED,
        "labelFontSize": SIZE,
        "labelLimit": WIDEST,
        "labelPadding": 4,
        "title": None,
    },
    "legend": {"labelColor": MUTED, "titleColor": MUTED, "labelFontSize": SIZE, "titleFontSize": SIZE},
    "text": {"fontSize": SIZE, "color": INK, "limit": WIDEST},
}

#: Begins an SVG file: of which data it was drawn, what the picture itself hashes to, and by which code.
_MARK = re.compile(r"<!-- sidbench: data (\w{12}), picture (\w{12}), code (\w{12}) -->\n")


@dataclass(frozen=True, eq=False)
class Figure:
    """One chart to be: its words and its data now, its picture when it is asked for."""

    name: str
    title: str
    #: What it shows, and how to read it.
    caption: str
    data: Any
    build: Callable[[], Any]

    @cached_property
    def stamp(self) -> str:
        """A hash of all that is shown: pictures of the same numbers have the same stamp."""
        told = json.dumps([self.name, self.title, self.caption, self.data], sort_keys=True)
        return _hash(told)

    @cached_property
    def svg(self) -> str:
        """The picture, for a page that gives it colours and a font."""
        import vl_convert

        spec = self.build().to_dict(validate=False) | {"config": _CONFIG}
        return _tidy(vl_convert.vegalite_to_svg(spec), f"{self.title}. {self.caption}")

    @property
    def file(self) -> str:
        """The picture as a file of its own, which follows the reader's light or dark ground."""
        mark = f"<!-- sidbench: data {self.stamp}, picture {_hash(self.svg)}, code {_code()} -->\n"
        start = self.svg.index(">") + 1
        return f"{mark}{self.svg[:start]}<style>{_DARK}</style>{self.svg[start:]}\n"

    def take(self, file: str) -> None:
        """Take the picture from a file, where the same code drew it of the same data: drawing takes time."""
        mark = _MARK.match(file)
        if mark and mark[3] == _code() and check_file(file, self) is None:
            self.__dict__["svg"] = _picture(file, mark)


def check_file(text: str, figure: Figure) -> str | None:
    """What is wrong with the file of a chart; nothing where it shows the figure's data, untouched."""
    mark = _MARK.match(text)
    if not mark:
        return "was not drawn by sidbench"
    if mark[1] != figure.stamp:
        return "shows other numbers than the records hold"
    return None if _hash(_picture(text, mark)) == mark[2] else "was changed after it was drawn"


def _picture(text: str, mark: re.Match[str]) -> str:
    return text[mark.end() :].replace(f"<style>{_DARK}</style>", "", 1).rstrip("\n")


@cache
def _code() -> str:
    """A hash of what draws: the code of all charts, and the versions of what it draws with."""
    here = resources.files("sidbench.report")
    sources = [here / "drawing.py", *sorted((here / "charts").iterdir(), key=lambda f: f.name)]
    text = "".join(f.read_text(encoding="utf-8") for f in sources if f.name.endswith(".py"))
    return _hash(text + "".join(version(name) for name in ("altair", "vl-convert-python")))


def drawn_here(text: str) -> bool:
    """Whether a file is a picture of ours."""
    return _MARK.match(text) is not None


def chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """A chart of some rows, which stand in the specification itself."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=[dict(r) for r in rows]))


def told(key: str, text: str) -> str:
    """What a mark says of itself: which row it belongs to, and a sentence for who points at it."""
    return f"{key}|{text}"


def width(text: str) -> float:
    """About how wide a label is, in pixels."""
    return min(WIDEST, len(text) * SIZE * _WIDE)


def place_labels(
    points: Sequence[tuple[float, float, str]],
    space: tuple[float, float],
    lines: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float] | None]:
    """Where the label of each point starts, such that none covers another or a point; the first come first.

    Nor do they lie on a line that goes from point to point, up, down or across. Labels without a free place
    are left out: who points at their mark reads them.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y, _ in points]
    for (x0, y0), (x1, y1) in itertools.pairwise(lines):
        taken.append((min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    out: list[tuple[float, float] | None] = []
    for x, y, text in points:
        w, h = width(text), SIZE + 1
        free = None
        for dx, dy in (
            (8, 0), (-8 - w, 0), (6, -10), (6, 10), (-6 - w, -10), (-6 - w, 10), (-w / 2, -14), (-w / 2, 14),
            (12, -20), (12, 20), (-12 - w, -20), (-12 - w, 20), (14, -31), (14, 31),
        ):  # fmt: skip
            box = (x + dx, y + dy - h / 2, x + dx + w, y + dy + h / 2)
            inside = box[0] >= 2 and box[2] <= space[0] + 30 and box[1] >= 0 and box[3] <= space[1]
            if inside and not any(_overlap(box, other) for other in taken):
                free = (x + dx, y + dy)
                taken.append(box)
                break
        out.append(free)
    return out


def spread(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Places at least `gap` apart, at most `top`, in the order of the wanted ones and near them."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed: dict[int, float] = {}
    last = -gap
    for i in order:
        placed[i] = last = max(wanted[i], last + gap)
    last = top + gap
    for i in reversed(order):
        placed[i] = last = min(placed[i], last - gap)
    return [placed[i] for i in range(len(wanted))]


def thinned(values: Sequence[Any], most: int = 60) -> list[int]:
    """Places of at most `most` values, evenly spread, with the first and the last."""
    n = len(values)
    if n <= most:
        return list(range(n))
    return sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})


def colours(selector: str, of: Callable[[str], str]) -> str:
    """CSS that gives every colour of a chart, by whatever it was drawn with, another value."""
    return "".join(
        f'{selector}[{what}="{light}"]{{{what}:{of(light)}}}'
        for light in COLOURS
        for what in ("fill", "stroke")
    )


def _tidy(svg: str, words: str) -> str:
    """Half the bytes: a table beside tells a screen reader the same better, and pixels need no tails."""
    svg = re.sub(r' (?:role|aria-roledescription|aria-hidden|pointer-events|class)="[^"]*"', "", svg)
    svg = re.sub(r' aria-label="([\w-]+)\|', r' data-row="\1" data-tip="', svg)
    svg = re.sub(r' aria-label="[^"]*"', "", svg)
    svg = re.sub(
        r'<path d="M0,0h0v0h0Z"/>|<path d=""[^>]*/>|<g/>| opacity="1"| font-weight="normal"', "", svg
    )
    shapes = r' (?:d|transform|x|y|x1|x2|y1|y2|width|height)="[^"]*"'
    svg = re.sub(shapes, lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1"', "", 1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_attribute(words)}" ', 1)


def _attribute(text: str) -> str:
    for c, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(c, name)
    return text


def _overlap(a: Iterable[float], b: Iterable[float]) -> bool:
    (a0, a1, a2, a3), (b0, b1, b2, b3) = a, b
    return a0 < b2 and b0 < a2 and a1 < b3 and b1 < a3


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_DARK = f"@media(prefers-color-scheme:dark){{{colours('', COLOURS.__getitem__)}}}"

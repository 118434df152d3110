"""Figures of an answer's words: what each layer would say, and by which layer it is decided."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from svl_core.figures.overlay import overlay
from svl_core.figures.plot import Plot
from svl_core.figures.style import (
    COLOUR_BAR,
    DROPPED,
    EDGE,
    RETAINED,
    SEQUENTIAL,
    drawn,
    layer_axis,
)

if TYPE_CHECKING:
    from svl_core.analysis.half_scores import SublayerScores
    from svl_core.analysis.lens import DecidedCurve, Lens
    from svl_core.analysis.visual_lens import NamedPatches, VisualLens
    from svl_core.analysis.word_attention import WordAttention

DECIDED = "#D55E00"  # Okabe-Ito vermilion: from here on the word stays first
KIND_COLOURS = {
    "image": "#009E73",
    "prompt": "#CC79A7",
    "earlier answer": "#0072B2",
    "first token": "#A9AEB5",
}
"""What a word's attention goes to, in the order of `WordAttention.shares`."""
HALF_LOOKS: Mapping[str, Mapping[str, str]] = {
    "attention": {"colour": "#0072B2", "dash": "solid", "symbol": "circle"},
    "MLP": {"colour": "#D55E00", "dash": "dash", "symbol": "square"},
}
"""The halves of a layer, in the order of `SublayerScores.cosine`."""
MOST_WRITTEN = 24  # columns up to which the words stand in their cells
MOST_LETTERS = 12  # of a word in its cell
ROW = 22  # pixels of a row whose words are written


def lens(
    full: Lens,
    pruned: Lens | None = None,
    *,
    height: int | None = None,
) -> Plot:
    """What each layer would say in the place of each token of an answer, layer 0 at the foot.

    A cell holds the likeliest word there; its colour is the probability of the word that stands
    below the column. The bar under a cell says that from this layer on that word stays first.

    full: of the full model.
    pruned: of a pruned one, drawn to its right by the original model's layers; dropped ones stay
        blank.
    height: pixels; by default enough for the words.
    """
    sides = [full] if pruned is None else [full, pruned]
    layers = 1 + max(max(side.layer_ids) for side in sides)
    columns = _Columns(layers)
    for side in sides:
        columns.add(side)
    cells: dict[str, Any] = {
        "type": "heatmap",
        "z": columns.joined(columns.probability),
        "x": list(range(columns.width)),
        "y": list(range(layers)),
        "text": columns.joined(columns.words).tolist(),
        "customdata": columns.joined(columns.places).tolist(),
        "meta": {"x": columns.named, "y": [f"layer {layer}" for layer in range(layers)]},
        "colorscale": SEQUENTIAL,
        "zmin": 0.0,
        "zmax": 1.0,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": (
            "layer %{y}: ‘%{text}’; the word below is number %{customdata} with a probability of"
            " %{z:.3f}<extra></extra>"
        ),
        "colorbar": COLOUR_BAR,
    }
    if columns.width <= MOST_WRITTEN:
        cells["texttemplate"] = "%{text}"
        cells["textfont"] = {"size": 11}
    bars = {
        "type": "scatter",
        "x": columns.bars_across,
        "y": columns.bars_up,
        "mode": "lines",
        "line": {"color": DECIDED, "width": 4},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    both = "" if pruned is None else ": full model left, pruned model right"
    return drawn(
        [cells, bars],
        x=f"word that is said{both}",
        y="layer",
        height=height or 120 + ROW * layers,
        colours="probability of the word that is said",
        xaxis={
            "tickmode": "array",
            "tickvals": columns.ticks,
            "ticktext": columns.tick_names,
            "range": [-0.5, columns.width - 0.5],
            "showgrid": False,
            "tickangle": -50 if columns.width > 8 else 0,
        },
        yaxis={
            "range": [-0.5, layers - 0.5],
            "showgrid": False,
            "dtick": max(1, layers // 12),
        },
    )


class _Columns:
    """The columns of several lenses side by side, an empty one between two.

    layers: rows, those of the original model.
    """

    def __init__(self, layers: int):
        self.layers = layers
        self.width = 0
        self.probability: list[np.ndarray] = []
        self.words: list[np.ndarray] = []
        self.places: list[np.ndarray] = []
        self.named: list[str] = []
        self.ticks: list[int] = []
        self.tick_names: list[str] = []
        self.bars_across: list[float | None] = []
        self.bars_up: list[float | None] = []

    def add(
        self,
        side: Lens,
    ) -> None:
        """Draws one lens to the right of what is there."""
        if self.width:
            self._skip()
        present = list(side.layer_ids)
        count = len(side.tokens)
        self.probability.append(
            side.by_original_layer(
                side.probability,
                self.layers,
            )
        )
        self.words.append(
            np.full(
                (self.layers, count),
                "",
                dtype=object,
            )
        )
        self.words[-1][present] = _cut(side.words[:, :, 0])
        self.places.append(
            np.full(
                (self.layers, count),
                "",
                dtype=object,
            )
        )
        self.places[-1][present] = side.rank + 1
        for token, decided in zip(
            side.tokens,
            side.decided,
            strict=True,
        ):
            self._name(token)
            if decided is not None:
                self._bar(decided)
            self.width += 1

    def joined(
        self,
        parts: Sequence[np.ndarray],
    ) -> np.ndarray:
        """(layers, width)."""
        return np.concatenate(parts, axis=1)

    def _skip(self) -> None:
        empty = np.full(
            (self.layers, 1),
            "",
            dtype=object,
        )
        self.probability.append(
            np.full(
                (self.layers, 1),
                np.nan,
            )
        )
        self.words.append(empty)
        self.places.append(empty)
        self.named.append("")
        self.width += 1

    def _name(
        self,
        token: str,
    ) -> None:
        name = _word(token)
        self.named.append(name)
        self.ticks.append(self.width)
        self.tick_names.append(name)

    def _bar(
        self,
        layer: int,
    ) -> None:
        """Under the cell of this column from which on the word stays first."""
        self.bars_across += [self.width - 0.46, self.width + 0.46, None]
        self.bars_up += [layer - 0.46, layer - 0.46, None]


def _word(token: str) -> str:
    """A token as a figure writes it: no markup, and something for nothing."""
    shown = token.strip() or "␣"
    if len(shown) > MOST_LETTERS:
        shown = f"{shown[: MOST_LETTERS - 1]}…"
    return html.escape(shown, quote=False)


def _cut(words: np.ndarray) -> np.ndarray:
    """Each of an array's words as a figure writes it."""
    return np.vectorize(
        _word,
        otypes=[object],
    )(words)


def patch_words(
    seen: VisualLens,
    patch: int,
    *,
    height: int | None = None,
) -> Plot:
    """What one image patch reads as, layer by layer, layer 0 at the foot.

    seen: what the patches of an image read as.
    patch: which of the sample's visual positions. Raises InputError for one that was not read.
    height: pixels; by default enough for the words.
    """
    words, shares = seen.of_patch(patch)
    rows, count = words.shape
    ordinals = [str(place + 1) for place in range(count)]
    cells = {
        "type": "heatmap",
        "z": shares.astype(float),
        "x": list(range(count)),
        "y": list(range(rows)),
        "text": _cut(words).tolist(),
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "customdata": [[layer] * count for layer in seen.layer_ids],
        "meta": {"x": ordinals, "y": [f"layer {layer}" for layer in seen.layer_ids]},
        "colorscale": SEQUENTIAL,
        "zmin": 0.0,
        "zmax": 1.0,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "layer %{customdata}: ‘%{text}’, %{z:.3f}<extra></extra>",
        "colorbar": COLOUR_BAR,
    }
    step = max(1, rows // 12)
    ticks = list(range(0, rows, step))
    return drawn(
        [cells],
        x="likeliest words",
        y="layer",
        height=height or 120 + ROW * rows,
        colours="probability",
        xaxis={
            "tickmode": "array",
            "tickvals": list(range(count)),
            "ticktext": ordinals,
            "showgrid": False,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [str(seen.layer_ids[row]) for row in ticks],
            "range": [-0.5, rows - 0.5],
            "showgrid": False,
        },
    )


def named_overlay(
    image: Image.Image,
    rects: np.ndarray,
    named: NamedPatches,
    layers: int,
    *,
    opacity: float = 0.6,
    width: int = 640,
) -> Image.Image:
    """The image with every patch tinted that ever names an object, the brighter the earlier the
    layer behind which it first does; others are left as they are.

    image: the whole picture.
    rects: (V, 4) of the sample's visual positions, see `overlay`.
    named: which patches name an object, and from which layer on.
    layers: how many the original model has.
    opacity, width: see `overlay`.
    """
    places = np.array(
        rects,
        np.float64,
    )[named.patches]
    places[np.isnan(named.layer)] = np.nan
    return overlay(
        image,
        places,
        layers - 1 - np.nan_to_num(named.layer),
        opacity=opacity,
        scale=(0, layers - 1),
        width=width,
    )


def attention_grid(
    full: WordAttention,
    pruned: WordAttention | None = None,
    *,
    height: int | None = None,
) -> Plot:
    """How much of each head's attention goes to the image while one word is written, layer 0 at
    the foot.

    full: of the full model.
    pruned: of a pruned one, drawn to its right by the original model's layers and on the same
        scale; dropped ones stay blank.
    height: pixels.
    """
    sides = [full] if pruned is None else [full, pruned]
    layers = 1 + max(max(side.layer_ids) for side in sides)
    parts = []
    named: list[str] = []
    for side in sides:
        if parts:
            parts.append(
                np.full(
                    (layers, 1),
                    np.nan,
                )
            )
            named.append("")
        share = np.full(
            (layers, side.rows.shape[1]),
            np.nan,
        )
        share[list(side.layer_ids)] = side.image_share
        parts.append(share)
        named += [str(head) for head in range(share.shape[1])]
    shares = np.concatenate(parts, axis=1)
    rows, columns = shares.shape
    heads = [[f"layer {layer}, head {name}" for name in named] for layer in range(rows)]
    step = max(1, columns // 16)
    ticks = [
        column
        for column in range(
            0,
            columns,
            step,
        )
        if named[column]
    ]
    cells = {
        "type": "heatmap",
        "z": shares,
        "x": list(range(columns)),
        "y": list(range(rows)),
        "meta": {"x": named, "y": [f"layer {layer}" for layer in range(rows)]},
        "customdata": heads,
        "colorscale": SEQUENTIAL,
        "zmin": 0.0,
        "zmax": float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": "%{customdata}: %{z:.3f}<extra></extra>",
        "colorbar": COLOUR_BAR,
    }
    both = "" if pruned is None else ": full model left, pruned model right"
    return drawn(
        [cells],
        x=f"head{both}",
        y="layer",
        height=height or 140 + 14 * layers,
        colours=f"attention to the image, writing ‘{_word(full.token)}’",
        xaxis={
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [named[column] for column in ticks],
            "range": [-0.5, columns - 0.5],
            "showgrid": False,
        },
        yaxis={
            "range": [-0.5, layers - 0.5],
            "showgrid": False,
            "dtick": max(1, layers // 12),
        },
    )


def attention_split(
    full: WordAttention,
    pruned: WordAttention | None = None,
    *,
    height: int = 320,
) -> Plot:
    """How the attention of one word splits over image, prompt, earlier answer and first token: a
    bar for each layer, mean of its heads.

    The parts stand on each other and fill the bar to 100 %, or to less where the model has
    attention sinks.

    full: of the full model.
    pruned: of a pruned one, drawn to its right by the original model's layers and on the same
        scale; dropped ones stay blank, as do layers without attention over the sequence.
    height: pixels.
    """
    sides = {"full model": full}
    if pruned is not None:
        sides["pruned model"] = pruned
    layers = 1 + max(max(side.layer_ids) for side in sides.values())
    across: list[int] = []
    told: list[str] = []
    named: list[int] = []
    parts = []
    for number, (name, side) in enumerate(sides.items()):
        left = number * (layers + 1)
        across += [left + layer for layer in side.layer_ids]
        told += [f"layer {layer}, {name}" for layer in side.layer_ids]
        named += list(side.layer_ids)
        parts.append(side.shares.mean(1))
    percent = 100 * np.concatenate(parts).astype(float)
    feet = percent.cumsum(1) - percent
    traces = []
    for number, (name, colour) in enumerate(KIND_COLOURS.items()):
        traces.append(
            {
                "type": "bar",
                "x": across,
                "y": percent[:, number],
                "base": feet[:, number],
                "name": name,
                "marker": {
                    "color": colour,
                    "line": {"width": 1, "color": "rgba(255,255,255,.7)"},
                },
                "customdata": told,
                "hovertemplate": f"%{{customdata}}: %{{y:.1f}} %<extra>{name}</extra>",
            }
        )
    columns = len(sides) * (layers + 1) - 1
    step = max(1, columns // 16)
    ticks = [place for place in range(len(across)) if named[place] % step == 0]
    both = "" if pruned is None else ": full model left, pruned model right"
    return drawn(
        traces,
        x=f"layer{both}",
        y=f"attention (%), writing ‘{_word(full.token)}’",
        height=height,
        legend=True,
        barmode="overlay",
        bargap=0.12,
        xaxis={
            "tickmode": "array",
            "tickvals": [across[place] for place in ticks],
            "ticktext": [str(named[place]) for place in ticks],
            "range": [-0.6, columns - 0.4],
            "showgrid": False,
        },
        yaxis={"range": [0, 101]},
    )


def relevance_overlay(
    image: Image.Image,
    rects: np.ndarray,
    values: Sequence[float],
    *,
    scale: float | None = None,
    opacity: float = 0.6,
    width: int = 640,
) -> Image.Image:
    """The image with every patch tinted by how much it speaks for a word, blue and "+", or against
    it, orange and "-".

    image: the whole picture.
    rects: (V, 4) of the sample's visual positions, see `overlay`.
    values: (V,) of a `Relevance`, or the difference of two models' ones.
    scale: the value of the strongest colours; by default the largest value there is. The same for
        both models, where they stand side by side.
    opacity, width: see `overlay`.
    """
    numbers = np.asarray(values, np.float64)
    strongest = float(np.abs(numbers).max(initial=0)) if scale is None else scale
    return overlay(
        image,
        rects,
        numbers,
        opacity=opacity,
        scale=(-strongest, strongest),
        width=width,
        diverging=True,
    )


def sublayer_curves(
    scores: SublayerScores,
    drop: Sequence[int] = (),
    *,
    attention: Sequence[int] = (),
    mlp: Sequence[int] = (),
    height: int = 300,
) -> Plot:
    """How redundant the attention and the MLP of each layer are, one line each.

    scores: of the full model, or of a pruned one, by the original model's layers.
    drop: layers of the original model that a plan drops, marked on both lines.
    attention, mlp: those whose attention or MLP alone it skips, marked on that line.
    """
    layers = list(scores.layer_ids)
    traces: list[dict[str, Any]] = []
    for number, (name, look) in enumerate(HALF_LOOKS.items()):
        traces.append(
            {
                "type": "scatter",
                "x": layers,
                "y": scores.cosine[:, number],
                "name": name,
                "mode": "lines+markers",
                "line": {"color": look["colour"], "dash": look["dash"], "width": 2.5},
                "marker": {"symbol": look["symbol"], "size": 7},
                "customdata": [f"{step:.3f}" for step in scores.step[:, number]],
                "hovertemplate": (
                    "layer %{x}: %{y:.4f}, adds %{customdata} of what leaves"
                    f" it<extra>{name}</extra>"
                ),
            }
        )
    marked = {
        "dropped": _marked_halves(layers, (drop, drop)),
        "skipped": _marked_halves(layers, (attention, mlp)),
    }
    traces += [_crosses(name, scores, halves) for name, halves in marked.items() if halves]
    return drawn(
        traces,
        x="layer",
        y="cosine of what enters and leaves",
        height=height,
        legend=True,
        hovermode="closest",
        xaxis=layer_axis(range(1 + max(layers))),
    )


def _marked_halves(
    layers: Sequence[int],
    chosen: Sequence[Sequence[int]],
) -> list[tuple[int, int]]:
    """(place of the layer, number of the half) of the halves that are marked, one line after the
    other.

    layers: those that are drawn.
    chosen: for each half the layers that are marked on its line.
    """
    return [
        (place, half)
        for half, marked in enumerate(chosen)
        for place, layer in enumerate(layers)
        if layer in marked
    ]


def _crosses(
    name: str,
    scores: SublayerScores,
    halves: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    """Marks on the lines of both halves. name: what is done with what is marked."""
    symbol = {"dropped": "x", "skipped": "cross"}[name]
    return {
        "type": "scatter",
        "x": [scores.layer_ids[place] for place, _ in halves],
        "y": np.array([scores.cosine[place, half] for place, half in halves]),
        "name": name,
        "mode": "markers",
        "marker": {
            "symbol": symbol,
            "size": 13,
            "color": DROPPED,
            "line": {"width": 1.5, "color": EDGE},
        },
        "hovertemplate": f"layer %{{x}}, {name}: %{{y:.4f}}<extra></extra>",
    }


def decided_curve(
    curves: Mapping[str, DecidedCurve],
    drop: Sequence[int] = (),
    *,
    height: int = 300,
) -> Plot:
    """The share of answers that are decided by each layer, one line a model.

    curves: by what stands in the legend, such as "full model" and "pruned model"; the first is the
        full model's.
    drop: layers of the original model that a plan drops, marked by crosses on the first line:
        crosses where the line is flat say that these layers decide little.
    """
    first, *_ = curves.values()
    count = 1 + max(max(curve.layer_ids) for curve in curves.values())
    colours = [RETAINED, DROPPED]
    traces: list[dict[str, Any]] = []
    for number, (name, curve) in enumerate(curves.items()):
        percent = 100 * curve.answers
        traces.append(
            {
                "type": "scatter",
                "x": list(curve.layer_ids),
                "y": percent,
                "name": html.escape(name, quote=False),
                "mode": "lines+markers",
                "line": {
                    "color": colours[number % 2],
                    "width": 2.5,
                    "dash": "dash" if number else "solid",
                },
                "marker": {"size": 7, "symbol": "square" if number else "circle"},
                "hovertemplate": (
                    "by layer %{x}: %{y:.1f} % of the answers<extra>"
                    + html.escape(name, quote=False)
                    + "</extra>"
                ),
            }
        )
    if len(drop):
        known = [layer for layer in sorted(drop) if layer in first.layer_ids]
        heights = [100 * first.answers[first.layer_ids.index(layer)] for layer in known]
        traces.append(
            {
                "type": "scatter",
                "x": known,
                "y": heights,
                "name": "dropped",
                "mode": "markers",
                "marker": {
                    "symbol": "x",
                    "size": 13,
                    "color": DROPPED,
                    "line": {"width": 1.5, "color": EDGE},
                },
                "hovertemplate": "layer %{x}, dropped: %{y:.1f} %<extra></extra>",
            }
        )
    return drawn(
        traces,
        x="layer",
        y="answers decided by then (%)",
        height=height,
        legend=True,
        xaxis=layer_axis(range(count)),
        yaxis={"range": [-3, 103]},
    )

"""An analysis and the controls -> figures and views; never runs the model: everything is derived
from the stored trace.
"""

from __future__ import annotations

import math

import numpy as np

import svl_core as svl
from svl_core import figures
from svl_core.analysis.ranking import top_p_of
from svl_core.service.derived import importance_of, scores_key, scores_of
from svl_core.service.stores import Analysis
from svl_core.ui import texts, views
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import in_words, ranked_by

CURVES = {
    "important": "svl",
    "all": "svl-all",
    "visual": "svl-visual",
    "textual": "svl-textual",
    "last": "svl-last",
}
PCA_TOKENS = 512  # drawn at most, evenly spaced among the important ones
SMALL = 320  # pixels of each picture of the difference

Update = dict[str, object]


def matrix_of(analysis: Analysis, now: Settings, tokens: str) -> np.ndarray:
    return analysis.memoized(
        ("similarity", tokens, now.key_tokens),
        lambda: svl.similarity(
            analysis.trace, importance_of(analysis, now), tokens, top_p=top_p_of(now)
        ),
    )


def look(analysis: Analysis, now: Settings, focus: dict | None) -> Update:
    sample, importance, top = analysis.sample, importance_of(analysis, now), top_p_of(now)
    mean_visual, mean_text = importance.averaged(0)
    layer = min(now.layer, analysis.trace.num_layers - 1)
    visual, text = (mean_visual, mean_text) if now.all_layers else importance.layer(0, layer)
    span = range_of(mean_visual) if now.all_layers else range_of(importance.visual[0])
    counts_visual, counts_text = top.select(mean_visual), top.select(mean_text)
    patch = focus["index"] if focus and focus["kind"] == "patch" else None
    word = focus["index"] if focus and focus["kind"] == "word" else None
    out: Update = {"overlay": None, "scale": "", "overlay-note": ""}
    if sample.images and len(visual):
        rects = np.where((sample.geometry.image_index == 0)[:, None], sample.geometry.rects, np.nan)
        wanted = now.key_tokens, None if now.all_layers else layer, now.opacity, patch
        shown, source = analysis.memo.get("overlay") or (
            None,
            "",
        )  # the last one alone: many would push out rankings that took passes
        if shown != wanted:
            source = views.data_url(
                figures.overlay(
                    sample.images[0],
                    rects,
                    visual,
                    counts_visual,
                    opacity=now.opacity,
                    scale=span,
                    focus=patch,
                )
            )
            analysis.memo.put("overlay", (wanted, source))
        rows, columns = sample.geometry.grid or (0, 0)
        where = (
            "averaged over all layers"
            if now.all_layers
            else f"in layer {analysis.trace.layer_ids[layer]}"
        )
        out["overlay"] = {
            "src": source,
            "rows": rows,
            "columns": columns,
            "alt": (
                f"Importance of {len(visual)} image patches {where}; {int(counts_visual.sum())}"
                " count."
            ),
        }
        out["scale"] = views.scale(*span)
    if not sample.images:
        out["overlay-note"] = views.note(texts.NO_IMAGE_NOTE)
    elif np.isnan(sample.geometry.rects).all():
        out["overlay-note"] = views.note(texts.NO_PLACES_NOTE)
    own = np.isin(sample.textual, sample.prompt_positions)
    out["tokens"] = views.words(
        [sample.tokens[k] for k in sample.textual], text, counts_text, own, word
    )
    out["token-curve"] = token_curve(analysis, importance, patch, word)
    return out


def token_curve(analysis: Analysis, importance, patch: int | None, word: int | None):
    if patch is None and word is None:
        return None
    if patch is not None:
        values, label = importance.visual[0][:, patch], f"patch {patch}"
    else:
        values, label = (
            importance.text[0][:, word],
            f"“{analysis.sample.tokens[analysis.sample.textual[word]].strip()}”",
        )
    return figure(
        figures.token_curve(values, label, ids=analysis.trace.layer_ids),
        f"Importance of {label} in each layer; largest in layer"
        f" {analysis.trace.layer_ids[int(np.argmax(values))]}.",
    )


def plan(analysis: Analysis, ground: Analysis, now: Settings, strip: dict) -> Update:
    """The figures that show the plan, all but `pca`; ground: what the layers are ranked on."""
    ids, drop = analysis.trace.layer_ids, strip["drop"]
    curves = {name: scores_of(ground, now, criterion).scores for name, criterion in CURVES.items()}
    best = ", ".join(str(ids[k]) for k in scores_of(ground, now, "svl").ranking[:3])
    gap = analysis.memoized(
        ("gap", tuple(drop), now.key_tokens),
        lambda: svl.feature_gap(
            analysis.trace,
            drop,
            importance_of(analysis, now),
            tokens="important",
            top_p=top_p_of(now),
            spectra=False,
        ),
    )
    return {
        "plot-redundancy": figure(
            figures.redundancy_curve(curves, drop, ids=ids, focus=strip["ranking"]),
            f"Redundancy of {len(ids)} layers on five token sets. Most redundant on important"
            f" tokens: layers {best}.",
        ),
        "plot-similarity": similarity(analysis, now, strip),
        "plot-gap": figure(
            figures.gap_curve(
                gap.per_layer,
                drop,
                {(run.first, run.last): run.relative for run in gap.runs},
                ids=ids,
            ),
            f"Relative feature gap of {len(ids)} layers; the dropped ones are hatched.",
        ),
        "plot-blocks": blocks(analysis, now, strip),
        "criteria": criteria(ground, now, strip),
        "plan-line": views.plan_line(in_words(strip)),
    }


def similarity(analysis: Analysis, now: Settings, strip: dict | None):
    matrix = matrix_of(analysis, now, now.token_set)
    return figure(
        figures.similarity_heatmap(
            matrix, strip["drop"] if strip else (), ids=analysis.trace.layer_ids
        ),
        f"Cosine similarity between the features after every two of {analysis.trace.num_layers}"
        f" layers, on {now.token_set} tokens.",
    )


def blocks(analysis: Analysis, now: Settings, strip: dict):
    matrix = matrix_of(analysis, now, now.token_set)
    return figure(
        figures.block_heatmap(
            matrix, strip["ranking"], strip["drop"], ids=analysis.trace.layer_ids
        ),
        "Cosine between what enters and what leaves every block of droppable layers.",
    )


def criteria(ground: Analysis, now: Settings, strip: dict) -> str:
    count, rows = len(strip["drop"]), []
    for name, each in svl.CRITERIA.items():
        if each.needs != "layers":
            scores = (
                scores_of(ground, now, name)
                if each.needs == "trace"
                else ground.memo.get(scores_key(name, now))
            )
            rows.append(
                (
                    name,
                    each.title,
                    f"{each.formula} ({each.source})",
                    None if scores is None else scores.chosen(min(count, scores.most)),
                )
            )
    return views.criteria(
        rows, len(strip["ids"]), strip["protected"], ranked_by(strip), strip["drop"]
    )


def pca(analysis: Analysis, now: Settings, strip: dict):
    """The plan's widest run: what the next layer receives, what it expects and, once the answers
    ran, the repair.
    """
    runs = figures.runs_of(strip["drop"])
    if not runs:
        return None
    importance = importance_of(analysis, now)
    a, b = max(runs, key=lambda run: run[1] - run[0])
    important = svl.token_positions(analysis.trace, importance, "important", top_p_of(now))[0]
    at = important[np.linspace(0, len(important) - 1, min(len(important), PCA_TOKENS)).astype(int)]
    features = analysis.trace.samples[0].features
    repaired = (
        analysis.memo.get(("after", tuple(strip["drop"]), now.key_prune))
        if now.compensation != "none"
        else None
    )

    def view_of():
        after = (
            None
            if repaired is None
            else _rows(repaired.samples[0].features, a - sum(k < a for k in strip["drop"]), at)
        )
        return svl.pca_view(_rows(features, a, at), _rows(features, b + 1, at), after)

    view = analysis.memoized(
        (
            "pca",
            a,
            b,
            now.key_tokens,
            None if repaired is None else (tuple(strip["drop"]), now.key_prune),
        ),
        view_of,
    )
    ids = analysis.trace.layer_ids
    kept = f"into layer {ids[a]}" if a == 0 else f"after kept layer {ids[a - 1]}"
    names = (f"now ({kept.removeprefix('after kept ')})", f"wanted (layer {ids[b]})", "compensated")
    return figure(
        figures.pca_scatter(view.before, view.target, view.after, view.explained, names=names),
        f"Features of {len(at)}{'' if len(at) == len(important) else f' of the {len(important)}'}"
        f" important tokens {kept} and after dropped layer {ids[b]}, in two principal components.",
    )


def difference(analysis: Analysis, now: Settings, strip: dict) -> str:
    """Markup of the three pictures once both answers ran with this plan; a sentence where there is
    nothing to compare, empty before.
    """
    after = analysis.memo.get(("after", tuple(strip["drop"]), now.key_prune))
    sample = analysis.sample
    if not sample.images or not len(sample.visual):
        return views.read(texts.NO_PLACES_NOTE if sample.images else texts.NO_IMAGE_NOTE)
    if not strip["drop"]:
        return views.read("No layer is dropped, so both maps are the same.")
    if after is None:
        return ""
    kept = [k for k in range(analysis.trace.num_layers) if k not in strip["drop"]]
    full = importance_of(analysis, now).visual[0][kept]
    pruned = svl.importance(
        after, causal_correction=now.causal_correction, text_self=now.text_self
    ).visual[0]
    ids = [analysis.trace.layer_ids[k] for k in kept]
    where = f"averaged over the {len(kept)} layers that both models have"
    if not now.all_layers:
        if now.layer not in kept:
            return views.note(
                f"Layer {analysis.trace.layer_ids[min(now.layer, analysis.trace.num_layers - 1)]}"
                " is dropped, so there is nothing to compare in it; choose another layer in step"
                " 2, or all of them."
            )
        at = kept.index(now.layer)
        full, pruned, where = full[at : at + 1], pruned[at : at + 1], f"in layer {ids[at]}"
    a, b = np.nanmean(full, axis=0), np.nanmean(pruned, axis=0)
    change, span = a - b, range_of(np.concatenate([a, b]))
    most = float(np.nanmax(np.abs(change))) or 1e-9
    rects = np.where((sample.geometry.image_index == 0)[:, None], sample.geometry.rects, np.nan)
    image, opacity = sample.images[0], max(now.opacity, 0.6)
    shown = [
        (
            "Full model",
            figures.overlay(image, rects, a, opacity=opacity, scale=span, width=SMALL),
            f"Importance of {len(a)} patches in the full model, {where}.",
        ),
        (
            "Pruned model",
            figures.overlay(image, rects, b, opacity=opacity, scale=span, width=SMALL),
            f"Importance of the same patches in the pruned model, {where}, on the same scale.",
        ),
        (
            "Full minus pruned",
            figures.overlay(
                image,
                rects,
                change,
                opacity=max(opacity, 0.75),
                scale=(-most, most),
                width=SMALL,
                diverging=True,
            ),
            (
                f"Full minus pruned: from {-most:.3f} to {most:.3f}; patch"
                f" {int(np.argmax(np.abs(change)))} changes most."
            ),
        ),
    ]
    pictures = "".join(
        f'<figure><figcaption>{title}</figcaption><img src="{views.data_url(picture)}"'
        f' alt="{views.esc(alt)}"></figure>'
        for title, picture, alt in shown
    )
    rows = [
        ("patch", "full", "pruned", "difference"),
        *((str(k), f"{x:.4f}", f"{y:.4f}", f"{x - y:+.4f}") for k, (x, y) in enumerate(zip(a, b))),
    ]
    return (
        f'<p class="read">{moved_share(a, b)} {where[0].upper()}{where[1:]}.</p><div'
        f' class="three">{pictures}</div><div class="three">{views.scale(*span)}'
        f"{views.scale(-most, most, 'diverging')}</div>{views.numbers('difference', rows)}"
    )


def moved_share(full: np.ndarray, pruned: np.ndarray) -> str:
    """(V,), (V,) scores -> how much of the importance went to other patches: half the sum of
    |differences| of the normed maps.
    """
    if not np.nansum(full) or not np.nansum(pruned):
        return ""
    moved = 0.5 * float(np.nansum(np.abs(full / np.nansum(full) - pruned / np.nansum(pruned))))
    return f"<strong>{100 * moved:.1f} %</strong> of the importance went to other patches."


def visual_kept(analysis: Analysis, now: Settings) -> tuple[int, int] | None:
    """How many visual tokens there are and how many the pruned model reads; None where it reads
    all.
    """
    count = len(analysis.sample.visual)
    return (
        (count, int(svl.TopP(now.visual_share).select(np.arange(count)).sum()))
        if now.visual_share < 1 and count
        else None
    )


def _rows(features, layer: int, at: np.ndarray) -> np.ndarray:
    return features[layer][at].float().cpu().numpy()


def range_of(scores: np.ndarray) -> tuple[float, float]:
    """Colour range: to the 99.5th percentile, so that one attention sink does not darken the rest."""
    if not scores.size:
        return 0.0, 1.0
    low, high = float(np.nanmin(scores)), float(np.nanquantile(scores, 0.995))
    return (low, high) if high > low else (low, float(np.nanmax(scores)) + math.ulp(1.0))


def figure(drawn, alt: str) -> dict:
    """A plotly figure as the value of `parts.plot`."""
    return {"figure": drawn.to_json(), "alt": alt}

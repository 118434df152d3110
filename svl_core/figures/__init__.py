"""Results drawn: plotly figures and image overlays, colour-blind-safe and legible in light and
dark.
"""

from svl_core.figures.curves import (
    block_heatmap,
    gap_curve,
    importance_bars,
    pca_scatter,
    redundancy_curve,
    runs_of,
    similarity_heatmap,
    token_curve,
    widest_run,
)
from svl_core.figures.evidence import (
    LOST,
    MEASURES,
    ablation_map,
    overlap_figure,
    pareto_figure,
    stability_curve,
    sweep_curves,
)
from svl_core.figures.lesson import kept_curves, skipped_heatmap
from svl_core.figures.overlay import overlay, sized
from svl_core.figures.words import (
    attention_grid,
    attention_split,
    decided_curve,
    lens,
    named_overlay,
    patch_words,
    relevance_overlay,
    sublayer_curves,
)

__all__ = [
    "LOST",
    "MEASURES",
    "ablation_map",
    "attention_grid",
    "attention_split",
    "block_heatmap",
    "decided_curve",
    "gap_curve",
    "importance_bars",
    "kept_curves",
    "lens",
    "named_overlay",
    "overlap_figure",
    "overlay",
    "pareto_figure",
    "patch_words",
    "pca_scatter",
    "redundancy_curve",
    "relevance_overlay",
    "runs_of",
    "similarity_heatmap",
    "sized",
    "skipped_heatmap",
    "stability_curve",
    "sublayer_curves",
    "sweep_curves",
    "token_curve",
    "widest_run",
]

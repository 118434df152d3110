"""Layer pruning of vision-language models, from an image and a question to two answers side by
side.

    import svl_core as svl
    lvlm       = svl.load("demo")
    sample     = lvlm.encode(image, prompt)
    trace      = svl.trace(lvlm, [sample])
    importance = svl.importance(trace)
    scores     = svl.redundancy(trace, importance, criterion="svl")
    plan       = svl.plan(scores, drop=4)
    pruned     = svl.prune(lvlm, plan, compensation="scp", calibration=trace)
    answer     = svl.answer(pruned, sample)
    report     = svl.compare(lvlm, pruned, sample)
    pruned.save("out/")

Names load on first use, so importing the package costs nothing.
"""

from importlib import import_module

_HOMES = {
    "errors": ("SVLError", "InputError", "Cancelled"),
    "progress": ("Run",),
    "recipe": ("Recipe",),
    "lvlm.catalogue": ("catalogue", "CatalogueEntry"),
    "lvlm.images": ("open_image",),
    "lvlm.loading": ("foresee", "load"),
    "lvlm.model": ("LVLM",),
    "lvlm.wrapping": ("wrap",),
    "lvlm.sample": ("PatchGeometry", "Sample"),
    "analysis.gap": ("feature_gap", "pca_view", "GapCurve", "GapProjection"),
    "analysis.half_scores": ("SublayerScores",),
    "analysis.importance": ("importance", "TokenImportance", "TopP"),
    "analysis.lens": ("lens", "decided_share", "DecidedCurve", "Lens"),
    "analysis.position": ("position_baseline", "PositionBaseline"),
    "analysis.redundancy": ("redundancy", "similarity", "CRITERIA", "Criterion", "LayerScores"),
    "analysis.relevance": ("occlusion", "relevance", "Occlusion", "Relevance"),
    "analysis.stability": ("stability", "overlap_curve", "Stability"),
    "analysis.sublayers": ("sublayers",),
    "analysis.tokens": ("token_positions",),
    "analysis.trace": ("trace", "AttentionStatistics", "SampleTrace", "Trace"),
    "analysis.visual_lens": ("named_patches", "visual_lens", "NamedPatches", "VisualLens"),
    "analysis.word_attention": ("word_attention", "WordAttention"),
    "pruning.compensation": ("COMPENSATIONS", "Compensation"),
    "pruning.plan": ("manual_plan", "plan", "DropPlan"),
    "pruning.prune": ("prune",),
    "pruning.selectors": ("SELECTORS", "Selector"),
    "pruning.tokens": ("keep_visual", "thin", "visual_scores"),
    "pruning.view": ("pruned_view",),
    "comparison.answer": ("answer", "stream", "Answer"),
    "comparison.evaluation": ("evaluate", "Evaluation", "Question", "read_jsonl"),
    "comparison.fidelity": ("compare", "Comparison"),
    "comparison.presets": ("PRESETS", "Preset"),
    "comparison.selection": ("choose_rank", "RankChoice"),
    "comparison.speed": ("Speed",),
}
_HOME_OF = {name: f"svl_core.{module}" for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(
            f"module 'svl_core' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))

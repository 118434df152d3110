"""`svl compare`: the full and the pruned model's answers to one question, side by side."""

from __future__ import annotations

import argparse
from typing import Any

from svl_core.analysis.trace import trace
from svl_core.cli.inputs import asked_question
from svl_core.cli.output import table, watched
from svl_core.cli.pruned import prune_by, thinner
from svl_core.comparison.answer import Answer
from svl_core.comparison.fidelity import Comparison, compare_known
from svl_core.comparison.pair import Known
from svl_core.comparison.speed import Speed
from svl_core.lvlm.vision import see
from svl_core.pruning.selectors import selector_of
from svl_core.recipe import Recipe


def compare(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    lvlm, sample = asked_question(args, recipe)
    selector_of(recipe.visual_tokens)
    sample = see(lvlm, sample)
    read = trace(lvlm, sample, keep_prompt=True, run=watched(args))
    pruned = prune_by(args, recipe, lvlm, [sample], read)
    report = compare_known(
        lvlm,
        pruned.lvlm,
        sample,
        known=Known(read),
        max_new_tokens=args.max_new_tokens,
        pruned_sample=thinner(recipe, lvlm, read)(sample),
    ).comparison
    result = {
        "model": lvlm.name,
        "plan": pruned.to_json(),
        "visual_share": recipe.visual_share,
        **report.to_json(),
    }
    return result, f"{pruned.describe()}\n\n{_comparison_text(report)}"


def _comparison_text(report: Comparison) -> str:
    """Both answers, the table of sizes and times, and what separates the answers."""
    fewer = f"{report.parameters_pruned / report.parameters_full - 1:+.1%}"
    rows = [
        ("", "parameters (M)", "prefill (ms)", "per token (ms)"),
        _row("full", report.full, report.parameters_full),
        _row("pruned", report.pruned, report.parameters_pruned),
        ("change", fewer, _measured(report.speed_prefill), _measured(report.speed_decode)),
        (
            "expected",
            "",
            _times(report.speed_prefill.expected),
            _times(report.speed_decode.expected),
        ),
    ]
    noise = [
        f"the speed-up of {part} is noise: {speed.noise}"
        for part, speed in (
            ("the prefill", report.speed_prefill),
            ("each token", report.speed_decode),
        )
        if speed.noise
    ]
    differs = (
        "same answer"
        if report.first_divergence is None
        else f"answers part at their token {report.first_divergence + 1}"
    )
    return (
        f"full:   {report.full.text}\npruned: {report.pruned.text}\n\n"
        + "\n".join([table(rows), *noise])
        + f"\n\n{differs}; KL {report.kl:.4f} nats/token; top-1 agreement {report.agreement:.1%}"
    )


def _row(
    name: str,
    answer: Answer,
    parameters: int,
) -> tuple[str, ...]:
    per_token = f"{answer.per_token_ms:.1f}" if answer.per_token_ms is not None else "-"
    return name, f"{parameters / 1e6:.2f}", f"{answer.prefill_ms:.1f}", per_token


def _measured(speed: Speed) -> str:
    return f"noise {_times(speed.measured)}" if speed.noise else _times(speed.measured)


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f}x" if ratio else "-"

"""`svl evaluate`: accuracy on labelled questions, of the full model or of a pruned one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from svl_core.cli.inputs import labelled_questions, load_model
from svl_core.cli.output import table, watched
from svl_core.cli.pruned import prune_by, thinner
from svl_core.comparison.evaluation import Evaluation, LabelledQuestion, PairedEvaluation
from svl_core.comparison.evaluation import evaluate as evaluate_model
from svl_core.lvlm.features import FeatureStore
from svl_core.pruning.selectors import acts
from svl_core.recipe import Recipe


def evaluate(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    questions = labelled_questions(args, recipe.seed)
    lvlm = load_model(args, recipe)
    options = {
        "data": args.data,
        "batch_size": args.batch_size,
        "max_new_tokens": args.max_new_tokens,
        "known": FeatureStore(),  # each image once for both models
        "run": watched(args),
    }
    drops = recipe.drops
    if not drops and not acts(recipe):
        alone = evaluate_model(lvlm, questions, **options)
        full = alone.to_json()
        result = {"model": lvlm.name, **full, "answers": _answers(questions, alone)}
        return result, _evaluation_text(full)
    pruned = prune_by(
        args,
        recipe if drops else recipe.changed(drop=0),
        lvlm,
    )
    both = PairedEvaluation(
        evaluate_model(lvlm, questions, **options),
        evaluate_model(pruned.lvlm, questions, prepare=thinner(recipe, lvlm), **options),
    )
    pair = both.to_json()
    result = {
        "model": lvlm.name,
        "plan": pruned.to_json(),
        "visual_share": recipe.visual_share,
        **pair,
        "answers": _answers(questions, both.pruned, both.full),
    }
    return result, f"{pruned.describe()}\n\n{_evaluation_text(pair)}"


def _answers(
    questions: Sequence[LabelledQuestion],
    asked: Evaluation,
    full: Evaluation | None = None,
) -> list[dict[str, Any]]:
    """Every answer beside the true one, in the order of the questions.

    full: of the full model, where a pruned one was asked.
    """
    rows = []
    for number, question in enumerate(questions):
        text = question.question
        row = {
            "question": text if isinstance(text, str) else text.question,
            "expected": question.answer,
            "answer": asked.answers[number],
            "correct": asked.correct[number],
        }
        rows.append(row | ({"full_answer": full.answers[number]} if full else {}))
    return rows


def _evaluation_text(result: Mapping[str, Any]) -> str:
    """Accuracy by kind of question and over all; with a pruned model what it kept."""
    full = result.get("full")
    heading: tuple[str, ...] = ("kind", "n", "accuracy", "95 % interval")
    if full:
        heading += ("full model", "kept")
    rows = [heading]
    if list(result["by_kind"]) != ["all"]:
        for kind, tally in result["by_kind"].items():
            rows.append(_row(kind, tally, full["by_kind"][kind] if full else None))
    rows.append(_row("all", result, full))
    text = f"{result['data']}: {result['n']} questions, exact match\n\n{table(rows)}"
    if full and result["accuracy_kept_interval"]:
        low, high = result["accuracy_kept_interval"]
        text += (
            f"\n\naccuracy kept {result['accuracy_kept']:.1%} (95 % interval"
            f" {low:.1%} - {high:.1%}); {result['lost']} answers lost, {result['gained']} gained"
        )
    return text


def _row(
    kind: str,
    tally: Mapping[str, Any],
    full: Mapping[str, Any] | None,
) -> tuple[str, ...]:
    """A line of the table. full: the full model's tally of the same questions."""
    low, high = tally["interval"]
    row = (kind, str(tally["n"]), f"{tally['accuracy']:.1%}", f"{low:.1%} - {high:.1%}")
    if full is None:
        return row
    kept = tally["accuracy_kept"]
    return (*row, f"{full['accuracy']:.1%}", "-" if kept is None else f"{kept:.1%}")

"""Questions: every kind's answers on a scene read by hand, and no ambiguous question ever."""

from collections import Counter

import numpy as np
import pytest

from svl_core.demo import build, evaluation, questions, scenes
from svl_core.errors import InputError

SCENE = scenes.compose({0: "cat", 2: "red circle", 4: "cat", 7: "bus"})
ANSWERS = {  # read off the scene by a person: kind -> {distinguishing words: answer}
    "what-at": {
        "top left": "cat",
        "top right": "circle",
        "center": "cat",
        "bottom right": "nothing",
        "bottom left": "nothing",
        " top?": "nothing",
    },
    "where": {"circle": "top right", "bus": "bottom", "cat": None, "dog": "nowhere"},
    "which": {"vehicle": "bus", "animal": "cat", "shape": "circle", "food": "none"},
    "exists-object": {
        "a bus": "yes",
        "a cat": "yes",
        "a circle": "yes",
        "a dog": "no",
        "a star": "no",
    },
    "exists-category": {
        "vehicle": "yes",
        "animal": "yes",
        "shape": "yes",
        "plant": "no",
        "tool": "no",
    },
    "count-all": {"": "4"},
    "count-category": {"animals": "2", "vehicles": "1", "shapes": "1", "foods": "0"},
    "count-object": {"cats": "2", "buses": "1", "circles": "1", "dogs": "0"},
    "relation": {
        "circle above the bus": "yes",
        "bus above the circle": "no",
        "circle right of the bus": "yes",
        "bus left of the circle": "yes",
        "circle below the bus": "no",
    },
    "is-at": {
        "circle in the top right": "yes",
        "circle at the top right": "yes",
        "bus in the bottom?": "yes",
        "circle in the bottom?": "no",
        "bus at the top left": "no",
    },
    "side": {
        "circle left or right of the bus": "right",
        "bus left or right of the circle": "left",
        "circle above or below the bus": "above",
        "bus above or below the circle": "below",
    },
    "colour": {"circle": "red"},
    "caption": {
        "": (
            "a cat in the top left, a red circle in the top right, a cat in the center and a bus in"
            " the bottom"
        )
    },
}


@pytest.mark.parametrize("kind", questions.KINDS)
def test_answers_read_by_hand(kind):
    rng, met = np.random.default_rng(1), Counter()
    for _ in range(600):
        qa = questions.ask(SCENE, rng, kind)
        for words, answer in ANSWERS[kind].items():
            if words in qa.question:
                met[words] += 1
                assert qa.answer == answer, qa
                break
    assert all(
        met[words]
        for words, answer in ANSWERS[kind].items()
        if answer is not None and words not in ("dog", "a dog", "a star", "dogs", "foods")
    ), met
    assert (
        "cat" not in ANSWERS[kind] or kind != "where" or met["cat"] == 0
    )  # two cats: "where is the cat?" has no one answer


def test_wordings_and_balance():
    assert all(len(set(w)) >= 5 for w in questions.WORDINGS.values())
    answers = Counter(
        one.answer
        for one in questions.labelled(2600, 0)
        if one.kind in ("exists-object", "exists-category", "is-at", "relation")
    )
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_a_seed_gives_the_same_questions_and_never_those_of_another():
    first, again, other = (questions.labelled(26, s) for s in (5, 5, 6))

    def text(made):
        return [(q.question, q.answer, q.image.tobytes()) for q in made]

    assert text(first) == text(again) != text(other)


def test_each_word_of_the_world_is_one_token_and_nothing_is_unknown():
    words = build.tokenizer()
    for name in questions.all_names() + questions.all_categories():
        for form in (name, questions.plural(name), name.upper()):
            assert len(words(f" {form}", add_special_tokens=False).input_ids) == 1, form
    for odd in ("Où est l'éléphant ??", "🦄", "\x00\x07", "cat" * 50):
        assert (
            words.decode(words(f" {odd}", add_special_tokens=False).input_ids).strip()
            == build.tokenizer().backend_tokenizer.normalizer.normalize_str(odd).strip()
        )


def test_unknown_data_set_and_empty_limit_are_refused():
    with pytest.raises(InputError, match="scenes, openmoji, easy-vqa"):
        evaluation.questions("imagenet")
    with pytest.raises(InputError, match="at least 1"):
        evaluation.questions("scenes", 0)

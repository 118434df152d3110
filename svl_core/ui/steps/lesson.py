"""A guided lesson in eight short steps beside the page: each puts the page into a state worth
looking at, asks for a guess, and then shows what was measured.

Every number told comes from static/lesson.json (made by tests/benchmarks/lesson.py, with the hash
of the weights) or from the page itself. Leaving brings back what the page showed before.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import gradio as gr
import numpy as np

import svl_core as svl
from svl_core import figures
from svl_core.recipe import DEMO
from svl_core.service.workspace import LESSON
from svl_core.ui import parts
from svl_core.ui.drawing import Update
from svl_core.ui.state.settings import DEFAULTS, Settings
from svl_core.ui.steps import snapshots
from svl_core.ui.wiring import QUICK, SETTINGS, Page
from svl_core.ui.work.analysing import start_analysis
from svl_core.ui.work.answering import plan_of

GUESSES = 4  # layers to guess
GROUPS = {
    "names": ("what-at", "which", "colour"),
    "places": ("where", "is-at", "relation", "side"),
    "numbers": ("count-all", "count-category", "count-object"),
    "captions": ("caption",),
}
LIVE = {"names": 12, "places": 12, "numbers": 12, "captions": 6}
"""Questions of each skill that a plan is asked live: about two seconds of one core, once a plan."""
ANSWER_TOKENS = 64  # of an answer to them, at most
REPAIRS = {"none": "none", "scp": "SCP", "lstsq": "least squares", "refit": "refit"}
ARENA = {
    "important tokens": ("svl", "none"),
    "all tokens": ("svl-all", "none"),
    "SCP": ("svl", "scp"),
    "least squares": ("svl", "lstsq"),
    "refit": ("svl", "refit"),
    "best found": ("preset", "best"),
}
"""What the lesson tells of the arena: criterion and compensation of its rows."""
KEPT = 0.95  # of the full model's right answers


@dataclass(frozen=True)
class Stage:
    """What the page shows in a step.

    origin: of the picture.
    prompt: the question.
    drop: the layers that are gone, by 0-based index.
    compensation: what closes their gap.
    calibration: what ranks the layers, "auto" for the picture itself.
    """

    origin: str
    prompt: str
    drop: tuple[int, ...] = ()
    compensation: str = "none"
    calibration: str = "auto"

    @property
    def fitted_on(self) -> int:
        """Scenes that a compensation is fitted on."""
        return DEFAULTS.calibration_size

    @property
    def settings(self) -> Settings:
        return Settings(compensation=self.compensation, calibration=self.calibration)

    def to_json(self) -> dict:
        """What the page's script tells its answers by."""
        return {
            "origin": self.origin,
            "prompt": self.prompt,
            "drop": list(self.drop),
            "compensation": self.compensation,
        }


def _stages(origin: str, prompt: str, drops: Mapping[str, tuple[int, ...]]) -> dict[str, Stage]:
    return {name: Stage(origin, prompt, drop) for name, drop in drops.items()}


FLOW, GUESS, WHERE, WHEN, TOKENS, GAP, REPAIR, MANY = range(8)
FIRST_TO_GO = (8, 9, 12, 13)  # by the ranking on calibration scenes
LAST_OF_ALL = (11, 12, 13, 14)  # as many, at the end of the layers that may go
ASKED_MANY = Stage("example:1", "how many animals are there?", FIRST_TO_GO, calibration=DEMO)
STAGES: tuple[Mapping[str, Stage], ...] = (
    _stages("example:0", "where is the cat?", {"": ()}),
    _stages(
        "draw:7",
        "how many trumpets are in the picture?",
        {"": (), "least": (8, 11, 12, 13), "one": (13,)},
    ),
    _stages(
        "example:0",
        "where is the cat?",
        {"": (), "3": (3, 4, 5), "6": (6, 7, 8), "10": (10, 11, 12)},
    ),
    _stages(
        "example:0",
        "how many animals are there?",
        {"": (), "ranked": FIRST_TO_GO, "late": LAST_OF_ALL},
    ),
    _stages(
        "example:0",
        "describe the picture.",
        {"": (), "important": (2, 6, 7, 8, 11, 12, 13), "all": (2, 3, 8, 9, 11, 12, 13)},
    ),
    _stages("draw:4", "describe the picture.", {"": (11, 12, 13), "back": (11, 13)}),
    {
        name: Stage("example:4", "describe the picture.", (6, 8, 11, 12, 13), name or "none")
        for name in ("", *REPAIRS)
    },
    {"": ASKED_MANY},
)
"""For each step its states of the page by name, "" the one that it begins with."""
STEPS = len(STAGES)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("before", gr.State(None))
    page.add("lesson", parts.lesson("lesson"))


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    inputs = ["before", "state", "strip", SETTINGS]
    outputs = [*snapshots.restored(page), "before", "lesson"]
    options = {"trigger_mode": "multiple", **QUICK}
    stepped = page.on(page["lesson"].step, go, inputs, outputs, **options)
    start_analysis(page, page.halt(stepped.then).then)
    asking = page.halt(page["lesson"].pick, LESSON)
    page.on(
        asking.then,
        ask_skills,
        ["state", "strip", SETTINGS],
        ["status", "lesson"],
        trigger_mode="multiple",
        **page.evidence,
    )


# -------------------------------------------------------------------------------- handlers
def go(
    page: Page,
    before: Mapping | None,
    state: Mapping | None,
    strip: Mapping | None,
    settings: Settings,
    event: gr.EventData,
) -> Update:
    """The page as a step (0-based `event.step`) wants it; step -1 leaves.

    before: what the page showed before the lesson. event.do: the name of one of the step's states.
    """
    step = int(getattr(event, "step", -1))
    if step < 0:
        restored = snapshots.restore(page, before, state) if before else {}
        return {**restored, "before": None}
    if before is None and state and strip:
        before = snapshots.take(page, state, strip, settings)
    step = min(step, STEPS - 1)
    named = STAGES[step]
    stage = named.get(str(getattr(event, "do", None) or ""), named[""])
    workspace = page.workspace
    model = "demo" if "demo" in workspace.scene_models else workspace.models.first
    taken = {
        "model": model,
        "key": None,
        "path": None,
        "origin": stage.origin,
        "prompt": stage.prompt,
        "drop": list(stage.drop),
        "settings": page.values_of(stage.settings),
    }
    if state and state["origin"] == stage.origin and state["model"] == model:
        taken |= {"key": state["key"], "path": state["path"]}  # the picture is there already
    return {
        **snapshots.restore(page, taken, state),
        "before": before,
        "lesson": {**content(), "at": step},
    }


@functools.cache
def skill_questions() -> tuple[tuple[str, object], ...]:
    """(skill, question) of every question that a plan is asked live, on scenes that nothing is
    fitted on.
    """
    from svl_core.demo.questions import measured_questions

    left = dict(LIVE)
    chosen = []
    for question in measured_questions(ENOUGH):
        skill = next((name for name, kinds in GROUPS.items() if question.kind in kinds), "")
        if left.get(skill, 0):
            left[skill] -= 1
            chosen.append((skill, question))
    return tuple(chosen)


ENOUGH = 13 * max(LIVE.values())  # questions, the thirteen kinds in turn


def ask_skills(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """How many questions of each skill the strip's plan still gets right, measured once a plan."""
    workspace = page.workspace

    def work(task) -> Update:
        if not state or not strip or state["model"] not in workspace.scene_models:
            return {}
        key = state["model"], tuple(strip["drop"])
        rows = workspace.skills.get(key)
        if rows is None:
            rows = measured_skills(page, state["model"], strip, task)
            workspace.skills.put(key, rows)
        return {"lesson": {"skills": {"drop": list(strip["drop"]), "rows": rows}}}

    yield from page.run(work, request, LESSON)


def measured_skills(page: Page, model: str, strip: dict, run: svl.Run) -> list:
    """[skill, right answers, questions] of the strip's plan, without compensation."""
    workspace = page.workspace
    asked = skill_questions()
    workspace.limits.check("questions", len(asked), "questions")
    lvlm = workspace.load_model(model, run)
    found = workspace.backend.evaluate(
        model,
        [question for _, question in asked],
        plan_of(strip, lvlm),
        DEFAULTS.changed(compensation="none").recipe,
        (),
        ANSWER_TOKENS,
        run,
        alone=True,
    )
    right = {skill: 0 for skill in LIVE}
    for (skill, _), correct in zip(asked, found.correct, strict=True):
        right[skill] += bool(correct)
    return [[skill, right[skill], LIVE[skill]] for skill in LIVE]


# ---------------------------------------------------------------------- words and figures
@functools.cache
def measured() -> dict:
    return json.loads((parts.STATIC / "lesson.json").read_text(encoding="utf-8"))


@functools.cache
def content() -> dict:
    """The steps as the page's script takes them: texts of ours, questions with their answers,
    figures, and the states that they go through.
    """
    data = measured()
    told = (_flow, _guess, _where, _when, _tokens, _gap, _repair, _many)
    steps = [
        {"stages": {name: stage.to_json() for name, stage in stages.items()}, **tell(data)}
        for stages, tell in zip(STAGES, told, strict=True)
    ]
    return {"at": None, "steps": steps}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(layers)))


def _option(label: str, right: bool, say: str, **more: str) -> dict:
    return {"label": label, "right": right, "say": say, **more}


FULL = "full"


def _answer(data: Mapping, step: int, name: str = "") -> str:
    """What a model was measured to answer in one of the lesson's states; FULL: the full one."""
    return data["shown"]["stages"][step][name]


HERO = "#hero"  # the picture, the layers and both answers on one screen, where the page has it


def _flow(data: Mapping) -> dict:
    shown, layers = data["shown"], data["layers"]
    angles = shown["angles"]
    typical = sorted(angles)[layers // 2]
    most, least = (angles.index(end(angles)) for end in (max, min))
    patches, words = shown["tokens"]
    right = f"about {typical:.0f}°"
    return {
        "title": "What flows through the model?",
        "anchor": [HERO, "#overlay"],
        "shows": ["#hero .hero-layers", "#plot-redundancy"],
        "text": "Touch a word below, and its part of the model lights up.",
        "drawing": drawing(layers),
        "terms": [
            _term(
                "Token",
                "token",
                f"a patch of the picture or a piece of the question: here {patches} patches and"
                f" {words} words and signs.",
                "#hero .hero-picture, #hero .hero-words",
            ),
            _term(
                "Hidden state",
                "hidden",
                f"the {shown['width']} numbers that stand for a token at one point of its way.",
                "#hero .hero-layers",
            ),
            _term(
                "Layer",
                "layer",
                f"one of {layers}: it reads all hidden states and adds something to each.",
                "#hero .hero-layer",
            ),
            _term(
                "Residual stream",
                "stream",
                "what runs past all layers and is only ever added to. Take a layer out, and it"
                " runs on without that addition.",
                "#hero .hero-layers",
            ),
        ],
        "question": "By how much does a layer usually turn the hidden states of this picture?",
        "options": [
            _option(right, True, ""),
            _option("about 45°", False, ""),
            _option("about 90°", False, "That would leave nothing of what came before."),
        ],
        "after": (
            f"Half of the layers turn them by less than {typical:.1f}°. Layer {most} turns them"
            f" most ({angles[most]:.0f}°), layer {least} least ({angles[least]:.1f}°). Short-LVLM"
            " calls a layer redundant where the turn is small, and drops those. Whether the"
            " answers agree is what the next steps measure."
        ),
        "line": f"Half of the layers turn the hidden states by less than {typical:.1f}°",
    }


def _term(term: str, name: str, means: str, hero: str) -> dict:
    """A word, the part of the drawing and of the page's first screen that it lights up."""
    return {"term": term, "name": name, "means": means, "hero": hero}


def _guess(data: Mapping) -> dict:
    layers, shown = data["layers"], data["shown"]
    least, one = STAGES[GUESS]["least"].drop, STAGES[GUESS]["one"].drop
    before, after, alone = (_answer(data, GUESS, name) for name in (FULL, "least", "one"))
    return {
        "title": "Which layers turn least, and are they useless?",
        "anchor": [HERO, "#image"],
        "shows": ["#plot-redundancy"],
        "answers": True,
        "veil": True,
        "text": (
            f"Nothing is dropped yet. Pick the {GUESSES} layers that turn the hidden states least."
            " What would tell is hidden until you reveal; then the page drops them and asks again."
        ),
        "guess": GUESSES,
        "layers": layers,
        "fixed": [0, layers - 1],
        "truth": sorted(shown["ranking"][:GUESSES]),
        "do": "least",
        "after": (
            f"Without layers {_listed(least)} the model counts <strong>{after}</strong> instead of"
            f" <strong>{before}</strong>. Without layer {one[0]} alone, the one that turns least"
            f" of all, it says {alone} already. A layer that hardly turns the features may still"
            " carry an answer: redundant is what the cosine says, useless is what answers say."
        ),
        "more": [{"label": f"Drop layer {one[0]} alone", "do": "one"}],
        "line": f"Without layers {_listed(least)} it counts {after}, not {before}",
    }


def lost_without(data: Mapping, kind: str, first: int) -> float:
    """Accuracy (0..1) that a kind of question loses without the block that begins at a layer."""
    return data["full"]["by_kind"][kind] - data["ablation"][kind][first]


def _points(lost: float) -> str:
    return f"{-100 * lost:.0f} points".replace("-", "−") if round(100 * lost) else "nothing"


def _where(data: Mapping) -> dict:
    right = _answer(data, WHERE, FULL)
    said = {name: _answer(data, WHERE, name) for name in STAGES[WHERE] if name}
    blocks = {
        name: f"{stage.drop[0]} to {stage.drop[-1]}"
        for name, stage in STAGES[WHERE].items()
        if name
    }
    says = {
        "3": f"It says “{said['3']}”, which is no place at all.",
        "6": f"It still says “{said['6']}”.",
        "10": f"It says “{said['10']}”: found, but half of the place is gone.",
    }
    over = "; ".join(
        f"{blocks[name]}: {_points(lost_without(data, 'where', int(name)))}" for name in said
    )
    lost = {
        kind: [lost_without(data, kind, first) for first in range(len(row))]
        for kind, row in data["ablation"].items()
    }
    return {
        "title": "Which layers find the cat?",
        "anchor": [HERO, "#answer-full"],
        "shows": [HERO, "#answer-full"],
        "answers": True,
        "text": (
            f"With all layers the answer is “{right}”. Take three neighbouring layers out: the page"
            " drops the ones that you choose and asks again. Try all of them."
        ),
        "question": "Without which three is the cat not found at all?",
        "options": [
            _option(f"Layers {block}", name == "3", says[name], do=name)
            for name, block in blocks.items()
        ],
        "do": "3",
        "plot": {
            "figure": figures.skipped_heatmap(lost, data["block"]).to_json(),
            "alt": (
                f"Points that {len(lost)} kinds of question lose with every {data['block']}"
                " neighbouring layers skipped; the first layers cost every kind nearly everything."
            ),
        },
        "after": (
            f"Without {blocks['3']}: “{said['3']}”. Without {blocks['10']}: “{said['10']}”. Without"
            f" {blocks['6']}: “{said['6']}”, as before. Over all “where” questions of the"
            f" {data['questions']} the same blocks cost: {over}. The map has every kind of question"
            " and block: <strong>bright is lost without it</strong>, as in the page's own map."
        ),
        "line": (
            f"Without {blocks['3']}: “{said['3']}”; {blocks['10']}: “{said['10']}”; {blocks['6']}:"
            f" “{said['6']}”"
        ),
    }


def reached(
    shares: Sequence[float],
    share: float = 0.5,
) -> int:
    """The first layer by which at least so large a share (0..1) of answers is decided."""
    enough = [value >= share for value in shares]
    return enough.index(True)


def decided_within(
    shares: Sequence[float],
    layers: Sequence[int],
) -> float:
    """The share (0..1) of answers that are decided at one of these layers, by no earlier one.

    shares: (L,) of answers decided by each layer.
    """
    earlier = [0.0, *shares]
    total = 0.0
    for layer in layers:
        total += shares[layer]
        total -= earlier[layer]
    return total


def price(
    ranked: float,
    late: float,
) -> str:
    """What right answers (0..1) without the ranking's layers, and without the late ones, say of
    these.
    """
    if late < ranked:
        return "What lies behind the decision does more than confirm it."
    if late > ranked:
        return "Here what lies behind the decision is what should go first."
    return "Here the two cost the same."


def halves(skills: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """By which layer half of the answers of each skill are decided, the earliest skill first."""
    layers = {}
    for skill, shares in skills.items():
        layers[skill] = reached(shares)
    order = sorted(
        layers,
        key=layers.__getitem__,
    )
    return {skill: layers[skill] for skill in order}


def _when(data: Mapping) -> dict:
    ranked = FIRST_TO_GO
    late = LAST_OF_ALL
    count = len(ranked)
    ahead = late[0] - 1
    found = data["decided"]
    shares = found["answers"]
    half = reached(shares)
    stand = _percent(shares[ahead])
    within = decided_within(shares, ranked)
    there = _percent(within)
    among = set(ranked) & set(late)
    both = len(among)
    right_ranked = data["kept"][count]
    right_late = found["kept_late"]
    left_ranked = _percent(right_ranked)
    left_late = _percent(right_late)
    verdict = price(right_ranked, right_late)
    by_skill = halves(found["skills"])
    soonest, *_, latest = by_skill
    first = data["shown"]["decided"]
    full = _answer(data, WHEN, FULL)
    cut = _answer(data, WHEN, "late")
    here = f"says “{cut}” instead of “{full}”"
    if cut == full:
        here = f"still says “{cut}”"
    curve = svl.DecidedCurve(
        layer_ids=tuple(range(data["layers"])),
        answers=np.array(shares),
        tokens=np.array(found["tokens"]),
        count=data["questions"],
    )
    figure = figures.decided_curve(
        {"full model": curve},
        ranked,
    )
    return {
        "title": "When is it decided, and can the rest go?",
        "anchor": [HERO, "#answer-full"],
        "shows": ["#plot-lens", HERO, "#answer-full"],
        "answers": True,
        "text": (
            "The model's last norm and head can read every layer's output: what would it say, were"
            f" this layer the last? Here “{full}” comes first from layer {first} on: it is decided"
            f" there. Of {data['questions']} answers, {stand} are decided by layer {ahead}, to the"
            " last word."
        ),
        "question": f"Which {count} layers can go at the lower price?",
        "options": [
            _option(
                f"The ranking's: {_listed(ranked)}",
                right_ranked > right_late,
                "",
                do="ranked",
            ),
            _option(
                f"The last that may go: {_listed(late)}",
                right_late > right_ranked,
                "",
                do="late",
            ),
            _option(
                "Either, at the same price",
                right_late == right_ranked,
                "",
            ),
        ],
        "do": "late",
        "plot": {
            "figure": figure.to_json(),
            "alt": (
                f"Share of {data['questions']} answers decided by each layer: half by layer {half},"
                f" {stand} by layer {ahead}. Crosses: the {count} layers that the ranking"
                " drops first."
            ),
        },
        "after": (
            f"Without the last {count} that may go <strong>{left_late}</strong> of the"
            f" {data['questions']} answers are right, without the ranking's {count}"
            f" <strong>{left_ranked}</strong>. {verdict} The ranking goes by the turn:"
            f" {both} of its {count} are among the last, and {there} of the answers are decided at"
            f" just its {count}. Without layers {_listed(late)} the model {here}. Half of all"
            f" answers are decided by layer {half}, of the {soonest} by layer {by_skill[soonest]},"
            f" of the {latest} by layer {by_skill[latest]}. Crosses: what the ranking drops."
        ),
        "more": [
            {"label": "Drop the ranking's", "do": "ranked"},
            {"label": "Drop the last", "do": "late"},
        ],
        "line": (
            f"{stand} stand by layer {ahead}; without the rest {left_late} right, by ranking"
            f" {left_ranked}"
        ),
    }


def furthest(one: Sequence[float], other: Sequence[float]) -> int:
    """Where two curves are furthest apart."""
    gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return gaps.index(max(gaps))


def _asked_of(arena: Mapping) -> str:
    return f"{arena['questions']:,} questions and {arena['draws']} calibration sets"


def _tokens(data: Mapping) -> dict:
    arena = data["arena"]
    names = ("important tokens", "all tokens")
    pairs = {where: [curves[name] for name in names] for where, curves in arena["curves"].items()}
    apart = {where: furthest(*pair) for where, pair in pairs.items()}
    points = {
        where: 100 * abs(pair[0][apart[where]] - pair[1][apart[where]])
        for where, pair in pairs.items()
    }
    own, other = pairs
    ends = [_percent(curve[apart[other]]) for curve in pairs[other]]
    dropped = arena["drops"][apart[other]]
    verdict = (
        f"on scenes of this world the two are never more than {points[own]:.1f} points apart. On"
        f" another set of pictures, {other}, they part: with {dropped} dropped the important"
        f" tokens' layers leave {ends[0]} right, those of all tokens {ends[1]}."
    )
    curves = {
        f"{name}, {where}": curve
        for where, pair in pairs.items()
        for name, curve in zip(names, pair, strict=True)
    }
    drops = {name: STAGES[TOKENS][name].drop for name in ("important", "all")}
    differ = len(set(drops["important"]) - set(drops["all"]))
    full = _answer(data, TOKENS, FULL)
    lost = {name: only_in(full, _answer(data, TOKENS, name)) for name in drops}
    here = [
        f"the layers that {name} tokens choose cost {f'“{words}”' if words else 'nothing'}"
        for name, words in lost.items()
    ]
    return {
        "title": "Does it matter which tokens choose?",
        "anchor": ["#plot-redundancy"],
        "shows": ["#plot-redundancy"],
        "answers": True,
        "text": (
            "Short-LVLM lets the important tokens say which layers are redundant; older recipes"
            f" average over all. On this picture the two differ in {differ} of"
            f" {len(drops['all'])} layers: {_listed(drops['important'])} or"
            f" {_listed(drops['all'])}. Drop either and read the answer."
        ),
        "tried": "Chosen by",
        "tries": [
            {"label": "important tokens", "do": "important"},
            {"label": "all tokens", "do": "all"},
        ],
        "do": "all",
        "reveal": f"Show {arena['questions']:,} questions",
        "plot": {
            "figure": figures.kept_curves(curves, drops=arena["drops"]).to_json(),
            "alt": (
                "Share of right answers against dropped layers, for layers chosen on important and"
                f" on all tokens, on two sets of questions: {verdict}"
            ),
        },
        "after": (
            f"Here {' and '.join(here)}. One picture proves little. Over {_asked_of(arena)},"
            f" {verdict} The paper finds the important tokens ahead on large models, where most of"
            " hundreds of patches are background."
        ),
        "line": (
            f"On these scenes under {math.ceil(points[own])} point; on {other} {ends[0]} against"
            f" {ends[1]} right"
        ),
    }


def _gap(data: Mapping) -> dict:
    shown, drop = data["shown"], STAGES[GAP][""].drop
    ((first, last, jump),) = shown["gap"][""]
    halves = shown["gap"]["back"]
    steps = " + ".join(f"{shown['steps'][layer]:.2f}" for layer in range(first, last + 1))
    full, cut = _answer(data, GAP, FULL), _answer(data, GAP)
    lost, got = only_in(full, cut), only_in(cut, full)
    return {
        "title": f"What does layer {last + 1} get to read now?",
        "anchor": ["#plot-gap"],
        "shows": ["#plot-gap"],
        "answers": True,
        "text": (
            f"Layers {_listed(drop)} are gone, and “{lost}” became “{got}”. Layer {last + 1} was"
            f" trained on what layer {last} hands over, written H[{last + 1}]."
        ),
        "question": f"What does layer {last + 1} receive?",
        "options": [
            _option(
                f"H[{last + 1}], as ever",
                False,
                "That is what it expects; the layer that made it is gone.",
            ),
            _option(f"H[{first}], what layer {first - 1} handed over", True, ""),
            _option(
                "Nothing",
                False,
                "The residual stream runs on: what the last kept layer left goes straight to the"
                " next one.",
            ),
        ],
        "after": (
            f"It reads H[{first}]. What is missing, |H[{last + 1}] − H[{first}]| / |H[{last + 1}]|,"
            f" is <strong>{jump:.2f}</strong>, where it was used to three small steps ({steps})."
            f" Put layer {first + 1} back: two gaps of {halves[0][2]:.2f} and {halves[1][2]:.2f}"
            f" are left, and the answer says “{lost}” again."
        ),
        "more": [{"label": f"Put layer {first + 1} back", "do": "back"}],
        "line": (
            f"It reads H[{first}], a gap of {jump:.2f}; with layer {first + 1} back it is right"
            " again"
        ),
    }


def only_in(text: str, other: str) -> str:
    """The words of a text that differ from another one's, from the first such word to the last."""
    words, others = text.split(), other.split()
    start = next(
        (k for k, (a, b) in enumerate(zip(words, others, strict=False)) if a != b),
        min(len(words), len(others)),
    )
    end = 0
    while words[len(words) - 1 - end :] == others[len(others) - 1 - end :] and end < len(words):
        end += 1
    return " ".join(words[start : len(words) - end]).strip(",")


def _repair(data: Mapping) -> dict:
    full, cut = _answer(data, REPAIR, FULL), _answer(data, REPAIR)
    lost, got = only_in(full, cut), only_in(cut, full)
    arena, found = data["arena"], data["arena"]["curves"]["scenes"]
    scenes, many, at = arena["scenes"], arena["many"], len(arena["drops"]) - 1
    curves = {"none": found["important tokens"]}
    curves |= {title: found[title] for title in list(REPAIRS.values())[1:]}
    best = f"best found ({many} samples)"
    curves[best] = found["best found"]
    right = {title: _percent(curve[at]) for title, curve in curves.items()}
    shares = ", ".join(f"{name} {share}" for name, share in right.items())
    repaired = [title for name, title in REPAIRS.items() if _answer(data, REPAIR, name) == full]
    here = f"{' and '.join(repaired)} brings it back" if repaired else "none brings it back"
    return {
        "title": "Does compensation repair the answer?",
        "anchor": ["#metrics"],
        "shows": ["#metrics"],
        "answers": True,
        "text": (
            f"{len(STAGES[REPAIR][''].drop)} layers are gone, and “{lost}” became “{got}”."
            " Compensation edits weights of the layers that stay so that they cover part of the"
            f" gap, fitted on {scenes} other scenes, without training. Which brings it back?"
            " Agreement 100 % and KL 0 would be the full model's own predictions."
        ),
        "tried": "Compensation",
        "tries": [{"label": svl.COMPENSATIONS[name].title, "do": name} for name in REPAIRS],
        "do": "refit",
        "plot": {
            "figure": figures.kept_curves(curves, drops=arena["drops"]).to_json(),
            "alt": (
                "Share of right answers against dropped layers, for four compensations and for the"
                f" preset “best found”. At {arena['drops'][at]}: {shares}."
            ),
        },
        "reveal": f"Show {arena['questions']:,} questions",
        "after": (
            f"Here {here}. One picture proves little. Over {_asked_of(arena)}, with"
            f" {arena['drops'][at]} dropped, right answers are: {shares}. Strong repairs fitted on"
            f" {scenes} scenes learn these scenes; “best found” fits the refit on {many} samples,"
            " and tries three choices of layers. Judge a repair by answers on pictures it has not"
            " seen."
        ),
        "line": (f"Here {here}; over all questions: refit {right['refit']}, none {right['none']}"),
    }


def lasts_until(values: Sequence[float], kept: float = KEPT) -> int:
    """The most layers that can go, one after the other, while so much of the accuracy stays."""
    return next((k - 1 for k, v in enumerate(values) if v < kept * values[0]), len(values) - 1)


def _many(data: Mapping) -> dict:
    values, skills = data["kept"], data["skills"]
    fair = lasts_until(values)
    lasting = {skill: lasts_until(curve) for skill, curve in skills.items()}
    order = sorted(lasting, key=lasting.__getitem__)
    first, last = order[0], order[-1]
    live = sum(LIVE.values())
    return {
        "title": "How many layers can go?",
        "anchor": [HERO, "#dock"],
        "shows": [HERO, "#dock"],
        "skills": list(LIVE),
        "text": (
            f"Drag the slider, or click layers: each plan is asked {live} questions about pictures"
            " that it has not seen, here and now. Watch which skill goes first."
        ),
        "question": (
            f"How many can go while {_percent(KEPT)} of {data['questions']} questions stay right?"
        ),
        "options": [
            _option(str(k), k == fair, f"{_percent(values[k])} are right with {k} dropped.")
            for k in range(1, min(len(values), 10))
        ],
        "plot": {
            "figure": figures.kept_curves(skills).to_json(),
            "alt": (
                f"Share of right answers against the number of dropped layers, for {len(skills)}"
                f" skills. {first} fall below {_percent(KEPT)} first, after {lasting[first]}"
                f" layers; {last} last, after {lasting[last]}."
            ),
        },
        "after": (
            f"{fair} of {data['layers']}: {_percent(values[fair])} stay right, with {fair + 1} it"
            f" is {_percent(values[fair + 1])}. {first.capitalize()} fall"
            f" below {_percent(KEPT)} first, after {lasting[first]} dropped layers; {last} hold out"
            f" longest, until {lasting[last]}. An average hides which skill is gone."
        ),
        "line": f"{fair} of {data['layers']}; {first} break first, {last} last",
    }


# ------------------------------------------------------------------------------- drawing
def drawing(layers: int) -> str:
    """The model as an SVG: patches and words become tokens, which run past the layers to the
    answer. data-part: by which names of `_term` a part is lit.
    """
    ink, kept = "currentColor", "var(--svl-kept)"
    patches = "".join(
        f'<rect x="{8 + 15 * (k % 4)}" y="{70 + 15 * (k // 4)}" width="13" height="13" rx="2"'
        f' fill="{kept}" fill-opacity="{0.25 + 0.15 * (k % 3)}"/>'
        for k in range(16)
    )
    words = "".join(
        f'<rect x="8" y="{150 + 17 * k}" width="{width}" height="13" rx="3" fill="none"'
        f' stroke="{ink}"/>'
        for k, width in enumerate((52, 30, 44))
    )
    tracks = range(72, 200, 18)
    streams = "".join(
        f'<path d="M104 {y}H376" stroke="{kept}" stroke-width="3" opacity=".55"/>' for y in tracks
    )
    states = "".join(
        f'<circle cx="{x}" cy="{y}" r="4.5" fill="{kept}"/>' for y in tracks for x in (98, 376)
    )
    width = 248 / layers
    slabs = "".join(
        f'<rect x="{114 + width * k:.1f}" y="56" width="{width - 4:.1f}" height="156" rx="3"'
        f' fill="var(--background-fill-primary)" fill-opacity=".7" stroke="{ink}"/>'
        for k in range(layers)
    )
    label = f'font-size="13" fill="{ink}"'
    return (
        '<svg viewBox="0 32 460 204" role="img" aria-label="Patches of the picture and words of the'
        f" question become tokens. Their hidden states run past {layers} layers, each of which adds"
        ' to them, to the answer."><g data-part="token">'
        f'<text x="8" y="60" {label}>picture</text>{patches}'
        f'<text x="8" y="145" {label}>words</text>{words}</g>'
        f'<g data-part="stream">{streams}</g><g data-part="layer">{slabs}'
        f'<text x="114" y="46" {label}>layer 0</text><text x="362" y="46" text-anchor="end"'
        f' {label}>layer {layers - 1}</text></g><g data-part="hidden">{states}</g>'
        f'<g data-part="stream"><text x="238" y="229" text-anchor="middle" {label}>the residual'
        " stream runs past them all</text></g>"
        f'<g data-part="answer"><path d="M384 134h14m-5-5 5 5-5 5" stroke="{ink}" fill="none"/>'
        f'<text x="404" y="138" {label}>answer</text></g></svg>'
    )

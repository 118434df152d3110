"""What a visitor takes along: a link, the plan, code, a mergekit recipe, and a report that stands
alone.
"""

from __future__ import annotations

import functools
import html
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import parse_qsl, urlencode

import svl_core as svl
from svl_core.analysis.importance import SINK_AWARE
from svl_core.errors import InputError
from svl_core.figures.still import still
from svl_core.lvlm.catalogue import demo_weights
from svl_core.pruning.mergekit import recipe as mergekit_recipe
from svl_core.pruning.plan_file import RENAMED, SOURCES, saved_plan
from svl_core.pruning.selectors import acts
from svl_core.pruning.selectors import in_words as in_words_of_tokens
from svl_core.recipe import AUTO, DEMO, FULL, HALF, OPTIONS, OWN, TARGETS, THIS, Recipe
from svl_core.service.calibration import CalibrationSources
from svl_core.ui.state.settings import ACCEPTED, DEFAULTS, PLAN, Settings
from svl_core.ui.state.strip import ranked_by

LIBRARIES = ("torch", "transformers", "plotly", "gradio")
LINKED_SOURCES = (THIS, DEMO)  # besides the default; a visitor's files stay behind
OFFERED = {
    "criterion": svl.CRITERIA,
    "compensation": svl.COMPENSATIONS,
    "visual_tokens": svl.SELECTORS,
    "calibration": LINKED_SOURCES,
}
"""Names that a link may ask for, by the setting."""
OF_HALVES = ("drop_attention", "drop_mlp")
"""Fields of a recipe that name halves of layers."""
HALVES_OF_A_LINK = (
    "Found a plan of halves of layers; expected one of whole layers, which the page's strip holds;"
    " open “Which half of a layer is redundant?” in step 3 to mark halves and ask without them."
)
MOST_SHOWN = 40  # characters of what a link asked for, in a sentence about it

IMPORTS = {
    THIS: "",
    DEMO: "from svl_core.demo.questions import calibration",
    OWN: "from svl_core.comparison.calibration import encode_all, read_calibration",
}
"""What the code imports for a calibration source."""


# -------------------------------------------------------------------------------- the link
def query(state: Mapping, strip: Mapping, settings: Settings) -> str:
    """The page's whole state as an address's query: model, scene, prompt, plan and every setting
    that is not the default. It names the bundled model's weights, which answer otherwise once they
    have been trained anew.
    """
    asked = {
        "model": state["model"],
        "prompt": state["prompt"],
        "image": state.get("origin") or "",
        "weights": demo_weights() if state["model"] == DEMO else "",
        "drop": ",".join(map(str, strip["drop"])) or "none",
    }
    for name in linked_settings():
        value = getattr(settings, name)
        if name == "detail" and value == AUTO:  # here it came to less; elsewhere it may not
            value = state["detail"] if state.get("detail", FULL) != FULL else AUTO
        if value not in (getattr(DEFAULTS, name), OWN):
            asked[name] = as_text(value)
    return urlencode({name: value for name, value in asked.items() if value != ""})


def linked_settings() -> list[str]:
    """The settings that a link carries: not what its plan says, nor a visitor's files."""
    return [name for name in ACCEPTED if name not in (*PLAN, "own")]


def as_text(value: object) -> str:
    """A setting's value as `Option.parsed` reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read_query(text: str) -> dict:
    """The inverse of `query`: {"model", "prompt", "image", "drop": [int] | None, "settings":
    {...}}; what is malformed is left out.
    """
    asked = _renamed(dict(parse_qsl(text)))
    read: dict = {name: asked[name] for name in ("model", "prompt", "image") if name in asked}
    if "drop" in asked and not _asks_for_halves(asked):
        layers = _numbers_among(asked["drop"].split(","))
        if layers or asked["drop"] == "none":
            read["drop"] = layers
    settings = {}
    for name in linked_settings():
        # a word in the place of a number has no place on a slider
        if name in asked and asked[name] not in ACCEPTED[name].words:
            try:
                settings[name] = ACCEPTED[name].parsed(asked[name])
                Settings(**settings)
            except InputError:
                settings.pop(name, None)
    for name, names in OFFERED.items():
        if settings.get(name) not in names:
            settings.pop(name, None)
    return read | {"settings": settings}


def refused_in(text: str) -> list[str]:
    """Why what a link asks for is left out, where its fields alone say so, in a sentence each."""
    asked, sentences = _renamed(dict(parse_qsl(text))), []
    for name in linked_settings():
        if name in asked and asked[name] not in ACCEPTED[name].words:
            try:
                value = ACCEPTED[name].parsed(asked[name])
                if value not in OFFERED.get(name, (value,)):
                    raise unknown(ACCEPTED[name].label, value, OFFERED[name])
                Settings(**{name: value})
            except InputError as error:
                sentences.append(str(error))
    weights = asked.get("weights", demo_weights())
    if asked.get("model", DEMO) == DEMO and weights != demo_weights():
        sentences.insert(
            0,
            f"Found a link made with the weights {_short(weights)} of the bundled model; expected"
            f" {demo_weights()!r}, those that it has now; take the answers and the ranking below as"
            " theirs, which may differ from what the link showed.",
        )
    if _asks_for_halves(asked):
        return [HALVES_OF_A_LINK, *sentences]
    words = [word for word in asked.get("drop", "none").split(",") if word]
    if words != ["none"] and len(_numbers_among(words)) < len(words):
        sentences.append(
            f"Found the layers {_short(asked['drop'])} to drop; expected whole numbers such as"
            " 3,5,6; change them."
        )
    return sentences


def _asks_for_halves(asked: Mapping[str, str]) -> bool:
    """Whether a link's recipe drops halves of layers: its numbers count these."""
    named = any(name in asked for name in OF_HALVES)
    return named or asked.get("granularity") == HALF


def unknown(label: str, value: object, offered: Sequence[str]) -> InputError:
    """The sentence for a name that is not among those offered."""
    label = label.removeprefix("the ")
    return InputError(
        f"Found the {label} {_short(value)}; expected one of {', '.join(offered)}; change it."
    )


def _short(value: object) -> str:
    """A value of a link as a sentence shows it."""
    shown = repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[: MOST_SHOWN - 3]}..."


def _numbers_among(words: Sequence[str]) -> list[int]:
    """The whole numbers among some words; a model has no layer of ten digits."""
    return [int(word) for word in words if word.isdecimal() and len(word) < 10]


def _renamed(asked: Mapping[str, str]) -> dict[str, str]:
    """A link's entries, those of older links under their present names."""
    entries = {RENAMED.get(name, name): value for name, value in asked.items()}
    if "attention_target" in entries:
        both = entries.pop("attention_target") == "1"
        entries.setdefault("targets", ",".join(TARGETS if both else TARGETS[:1]))
    if "calibration" in entries:
        source = entries["calibration"]
        entries["calibration"] = SOURCES.get(source, source)
    return entries


# -------------------------------------------------------------------------------- the code
def snippet(state: Mapping, strip: Mapping, settings: Settings, sources: CalibrationSources) -> str:
    """Python that repeats the page's plan and answer."""
    settings = settings.at(state)
    ranks = ranked_by(strip) != "manual"
    fits = settings.fits and bool(strip["drop"])
    used = ([sources.rank] if ranks else []) + ([sources.fit] if fits else [])
    imports = [IMPORTS[source] for source in dict.fromkeys(used)]
    image = '"image.png"' if state["path"] else "None"
    lines = [
        "import svl_core as svl",
        *filter(None, imports),
        *(["from svl_core.analysis.ranking import rank_layers"] if ranks else []),
        "",
        f"lvlm = svl.load({', '.join(_load_arguments(state, settings))})",
        f"sample = lvlm.encode({image}, {state['prompt']!r})",
        *_recipe_code(strip, settings),
        *_plan_code(strip, settings, sources, ranks),
        *_prune_code(settings, sources, ranks, fits),
        *_answer_code(settings),
    ]
    if not fits or svl.COMPENSATIONS[settings.compensation].exportable:
        lines.append('pruned.save("pruned")  # a plain transformers checkpoint')
    return "\n".join(lines) + "\n"


def _load_arguments(state: Mapping, settings: Settings) -> list[str]:
    """What `svl.load` is given: the model, and how it reads where that is not the usual."""
    arguments = [repr(state["model"])]
    if not state["path"]:
        arguments.append("text_only=True")
    reading = {name: getattr(settings, name) for name in ("detail", "max_visual_tokens")}
    usual = {"detail": FULL, "max_visual_tokens": None}
    changed = {name: value for name, value in reading.items() if value != usual[name]}
    return [*arguments, *(f"{name}={value!r}" for name, value in changed.items())]


def _recipe_code(strip: Mapping, settings: Settings) -> list[str]:
    """The recipe, with the fields that are not its defaults."""
    recipe = settings.recipe.changed(criterion=strip["criterion"], rounds=strip.get("rounds"))
    fields = [f"    {name}={value!r}," for name, value in recipe.unusual().items()]
    return ["recipe = svl.Recipe(", *fields, ")"] if fields else ["recipe = svl.Recipe()"]


def _traced_code(name: str, source: str, settings: Settings) -> list[str]:
    samples = {
        THIS: "[sample]",
        DEMO: "[lvlm.encode(*pair) for pair in"
        f" calibration({settings.calibration_size}, {settings.seed})]",
        OWN: 'encode_all(lvlm, read_calibration("calibration/"))  # your images, or a .jsonl',
    }[source]
    needs_mlp = svl.COMPENSATIONS[settings.compensation].needs_mlp
    return [f"samples = {samples}", f"{name} = svl.trace(lvlm, samples, mlp={needs_mlp})"]


def _plan_code(
    strip: Mapping, settings: Settings, sources: CalibrationSources, ranks: bool
) -> list[str]:
    drop = strip["drop"]
    if not ranks:
        return [f"plan = svl.manual_plan({drop}, lvlm.num_layers)"]
    runs_model = svl.CRITERIA[strip["criterion"]].needs == "model"
    model = ", lvlm=lvlm, samples=samples" if runs_model else ""
    return [
        *_traced_code("trace", sources.rank, settings),
        f"plan = svl.plan(rank_layers(recipe, trace{model}), drop={len(drop)})  # layers {drop}",
    ]


def _prune_code(
    settings: Settings, sources: CalibrationSources, ranks: bool, fits: bool
) -> list[str]:
    if not fits:
        return ["pruned = svl.prune(lvlm, plan)"]
    fit = "trace" if ranks and sources.fit == sources.rank else "calibration_trace"
    traced = [] if fit == "trace" else _traced_code(fit, sources.fit, settings)
    return [*traced, f"pruned = svl.prune(lvlm, plan, recipe, {fit})"]


def _answer_code(settings: Settings) -> list[str]:
    asked, lines = "sample", []
    if acts(settings):
        asked = "thinned"
        thinned, comment = "svl.thin(lvlm, sample, recipe)", in_words_of_tokens(settings)
        if (settings.visual_tokens, settings.visual_from) == ("tis", 0):
            thinned = f"svl.keep_visual(lvlm, sample, {settings.visual_share})"
            comment = "its most important visual tokens"
        lines.append(f"{asked} = {thinned}  # {comment}")
    usual = settings.max_new_tokens == DEFAULTS.max_new_tokens
    length = "" if usual else f", max_new_tokens={settings.max_new_tokens}"
    return [*lines, f"print(svl.answer(pruned, {asked}{length}).text)"]


# -------------------------------------------------------------------------------- the plan
def plan_recipe(strip: Mapping, settings: Settings, sources: CalibrationSources) -> Recipe:
    """The recipe of a plan, with the set that compensation was fitted on."""
    preset = strip.get("preset") or [None]
    won = preset[1:] == list(strip["drop"])
    return settings.recipe.changed(
        criterion=strip["criterion"],
        calibration=sources.fit,
        rounds=strip.get("rounds"),
        preset=preset[0] if won else None,
    )


def plan_json(
    state: Mapping, strip: Mapping, settings: Settings, sources: CalibrationSources
) -> str:
    """The plan with its provenance, as `svl --from` reads it.

    Its own criterion is "manual" where the layers do not follow the recipe's.
    """
    ids = strip["ids"]
    keep = [ids[layer] for layer in range(len(ids)) if layer not in strip["drop"]]
    plan = saved_plan(
        plan_recipe(strip, settings.at(state), sources),
        [ids[layer] for layer in strip["drop"]],
        keep,
        model=state["model"],
        layer_indices="0-based, in the original model",
        num_layers=len(ids),
    )
    own = {"criterion": ranked_by(strip), "versions": versions()}
    return json.dumps({**plan, **own}, indent=2)


def mergekit(state: Mapping, strip: Mapping, model_type: str) -> str:
    """A mergekit recipe of the kept layers, or why there is none. model_type: of the config."""
    ids = strip["ids"]
    keep = [ids[layer] for layer in range(len(ids)) if layer not in strip["drop"]]
    return mergekit_recipe(model_type, state["model"], keep)


# a plan's file says them at every move of a control, and reading them takes longer than many a
# figure
@functools.cache
def versions() -> dict[str, str]:
    """The versions of this package, of Python and of what results depend on."""
    installed = {"svl_core": svl.__version__, "python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


# ------------------------------------------------------------------------------ the report
def in_words(state: Mapping, strip: Mapping, settings: Settings, sources: str) -> dict[str, str]:
    """What was done, for a reader who never saw the page.

    sources: what ranks and what is fitted on, in a sentence.
    """
    ranked = ranked_by(strip)
    shares = "tokens" if settings.top_p_mode == "fraction" else "score"
    corrected = ", corrected for causal masking" if settings.causal_correction else ""
    aware = settings.text_ends == SINK_AWARE
    ends = "; the first text token never, the last always" if aware else ""
    looked_at = "mean of all layers" if settings.all_layers else f"layer {settings.layer}"
    dropped = ", ".join(str(strip["ids"][layer]) for layer in strip["drop"])
    by_hand = "nothing: the layers are chosen by hand"
    return {
        "Model": state["model"],
        "Prompt": state["prompt"],
        "Dropped layers (0-based)": dropped or "none",
        "Ranked by": by_hand if ranked == "manual" else svl.CRITERIA[ranked].title,
        "Compensation": _compensation_in_words(settings) if dropped else "nothing to compensate",
        "Samples": sources,
        "Visual detail": settings.at(state).detail,
        "Important tokens": (
            f"top-p {settings.top_p:g}, a share of the {shares}; visual and text tokens apart{ends}"
        ),
        "Attention of text tokens": f"{settings.text_self}{corrected}",
        "First and last layer": "protected" if settings.protect_ends else "droppable",
        "Visual tokens that the pruned model reads": _tokens_in_words(settings),
        "Answer length": f"at most {settings.max_new_tokens} tokens",
        "Importance drawn": looked_at,
    }


def _tokens_in_words(settings: Settings) -> str:
    """The share of them, or what else is done with them."""
    usual = (settings.visual_tokens, settings.visual_from) == ("tis", 0)
    if usual or not acts(settings):
        share = settings.visual_share if acts(settings) else 1.0
        return f"{100 * share:g} %"
    return in_words_of_tokens(settings)


def _compensation_in_words(settings: Settings) -> str:
    """What closes the gap, with the settings that it reads."""
    row = svl.COMPENSATIONS[settings.compensation]
    words = [row.title]
    for name in row.settings:
        option, value = OPTIONS[name], getattr(settings, name)
        label = option.label.removeprefix("the ")
        if name == "targets":
            words += ["attention outputs edited too"] if "attention" in value else []
        elif option.kind is bool:
            words += [label] if value else []
        elif value is not None:
            words.append(f"{label} {value if isinstance(value, str) else format(value, 'g')}")
    return ", ".join(words)


@dataclass(frozen=True)
class Section:
    """A figure of the report.

    reading: markup of the page's own. value: {"figure": JSON, "alt"} of a plotly figure, {"src",
    "alt"} of a picture, {"markup"}, escaped, or None where there is nothing to show. scale: markup
    of a picture's colours. said: a sentence on what was measured.
    """

    heading: str
    reading: str
    value: Mapping | None
    scale: str = ""
    said: str = ""


def report(
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    answers: str,
    links: Sequence[tuple[str, str]],
    css: str,
) -> str:
    """One HTML file that needs nothing else: no script, no network.

    facts: of `in_words`. answers: markup, escaped. links: names and addresses.
    """
    figures = "".join(_figure(section) for section in sections if section.value)
    made_with = ", ".join(f"{name} {number}" for name, number in versions().items())
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(fact)}</td></tr>"
        for name, fact in {**facts, "Made with": made_with}.items()
    )
    linked = " · ".join(
        f'<a href="{html.escape(address)}">{html.escape(name)}</a>' for name, address in links
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width"><title>{html.escape(title)}</title><style>{css}</style>'
        f"<body><main><h1>{html.escape(title)}</h1><p"
        f' class="lede">{html.escape(facts["Prompt"])}</p><p class="links">{linked}</p>'
        f'{answers}{figures}<section class="card"><h2>What was done</h2><table class="facts'
        f' done">{rows}</table></section></main></body></html>'
    )


def _figure(section: Section) -> str:
    value, said = section.value, html.escape(section.said)
    if "figure" in value:
        drawn = still(value["figure"], value["alt"])
    elif "markup" in value:
        drawn = value["markup"]
    else:
        drawn = f'<img src="{value["src"]}" alt="{html.escape(value["alt"])}">{section.scale}'
    return (
        f'<section class="card"><h2>{html.escape(section.heading)}</h2><p'
        f' class="read">{section.reading}{f" {said}" if said else ""}</p>{drawn}</section>'
    )

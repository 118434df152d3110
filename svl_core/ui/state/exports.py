"""What a visitor takes along: a link, the plan, code, a mergekit recipe, and a report that stands
alone.
"""

from __future__ import annotations

import functools
import html
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import parse_qsl, urlencode

import svl_core as svl
from svl_core.figures import runs_of
from svl_core.recipe import DEMO, OWN, THIS
from svl_core.service import calibration
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by


def query(state: Mapping, strip: Mapping, now: Settings) -> str:
    """The page's whole state as an address's query: model, scene, prompt, plan and every setting
    that is not the default.
    """
    kept = {
        "model": state["model"],
        "prompt": state["prompt"],
        "image": state.get("origin") or "",
        "drop": ",".join(map(str, strip["drop"])) or "none",
    }
    default = Settings()
    for field in fields(Settings):
        value = getattr(now, field.name)
        if field.name == "own" or value == OWN:  # a visitor's files stay behind
            continue
        if value != getattr(default, field.name):
            kept[field.name] = int(value) if isinstance(value, bool) else value
    return urlencode({k: v for k, v in kept.items() if v != ""})


def read_query(text: str) -> dict:
    """The inverse of `query`: {"model", "prompt", "image", "drop": [int] | None, "settings":
    {...}}; what is malformed is left out.
    """
    found = dict(parse_qsl(text))
    if found.get("calibration") == "bundled":  # in links of before
        found["calibration"] = DEMO
    out: dict = {k: found[k] for k in ("model", "prompt", "image") if k in found}
    if "drop" in found:
        out["drop"] = [int(k) for k in found["drop"].split(",") if k.isdecimal()]
    settings = {}
    for field in fields(Settings):
        if field.name in found and field.name != "own":
            kind = type(field.default)
            try:
                settings[field.name] = (
                    bool(int(found[field.name])) if kind is bool else kind(found[field.name])
                )
                Settings(**settings)
            except ValueError:
                settings.pop(field.name, None)
    for name, valid in (
        ("criterion", svl.CRITERIA),
        ("compensation", svl.COMPENSATIONS),
        ("calibration", (THIS, DEMO)),
    ):
        if settings.get(name) not in valid:
            settings.pop(name, None)
    return out | {"settings": settings}


def snippet(
    state: Mapping, strip: Mapping, now: Settings, used: calibration.CalibrationSources
) -> str:
    """Python that repeats the page's plan and answer."""
    sets = {
        THIS: "[sample]",
        DEMO: (
            f"[lvlm.encode(*pair) for pair in calibration({now.calibration_size}, {calibration.SEED})]"
        ),
        OWN: ('encode_all(lvlm, read_calibration("calibration/"))  # your images, or a .jsonl'),
    }
    ranks, fits = ranked_by(strip) != "manual", now.compensation != "none" and bool(strip["drop"])
    imports = {
        THIS: "",
        DEMO: "from svl_core.demo.questions import calibration",
        OWN: "from svl_core.comparison.calibration import encode_all, read_calibration",
    }
    wanted = ([used.rank] if ranks else []) + ([used.fit] if fits else [])
    alone, image = ("", '"image.png"') if state["path"] else (", text_only=True", "None")
    lines = [
        "import svl_core as svl",
        *filter(None, dict.fromkeys(imports[each] for each in wanted)),
        "",
        f"lvlm = svl.load({state['model']!r}{alone})",
        f"sample = lvlm.encode({image}, {state['prompt']!r})",
        f"top_p = svl.TopP({now.top_p!r}, {now.mode!r})",
    ]

    def traced(name: str, which: str) -> list[str]:
        return [
            f"samples = {sets[which]}",
            (
                f"{name} = svl.trace(lvlm, samples,"
                f" mlp={svl.COMPENSATIONS[now.compensation].needs_mlp})"
            ),
            (
                f"importance = svl.importance({name}, causal_correction={now.causal_correction},"
                f" text_self={now.text_self!r})"
            ),
        ]

    if ranks:
        runs = (
            ", lvlm=lvlm, samples=samples"
            if svl.CRITERIA[strip["criterion"]].needs == "model"
            else ""
        )
        runs += f", rounds={strip['rounds']}" if strip.get("rounds") else ""
        lines += traced("trace", used.rank)
        lines.append(
            f"plan = svl.plan(svl.redundancy(trace, importance, {strip['criterion']!r},"
            f" top_p=top_p, protect_ends={now.protect_ends}{runs}), drop={len(strip['drop'])})  #"
            f" layers {strip['drop']}"
        )
    else:
        lines.append(f"plan = svl.manual_plan({strip['drop']}, lvlm.num_layers)")
    if fits:
        fitted = "trace" if ranks and used.fit == used.rank else "calibration_trace"
        lines += [] if fitted == "trace" else traced(fitted, used.fit)
        targets = '("mlp", "attention")' if now.attention_target else '("mlp",)'
        lines.append(
            f"pruned = svl.prune(lvlm, plan, {now.compensation!r}, {fitted}, importance,"
            f" rank={now.rank}, strength={now.strength}, targets={targets}, top_p=top_p)"
        )
    else:
        lines.append("pruned = svl.prune(lvlm, plan)")
    asked, most = (
        "sample",
        ("" if now.max_new_tokens == 64 else f", max_new_tokens={now.max_new_tokens}"),
    )
    if now.visual_share < 1:
        lines.append(
            f"thinned = svl.keep_visual(lvlm, sample, {now.visual_share})  # its most important"
            " visual tokens"
        )
        asked = "thinned"
    lines.append(f"print(svl.answer(pruned, {asked}{most}).text)")
    if not fits or svl.COMPENSATIONS[now.compensation].exportable:
        lines.append('pruned.save("pruned")  # a plain transformers checkpoint')
    return "\n".join(lines) + "\n"


def plan_json(state: Mapping, strip: Mapping, now: Settings) -> str:
    """The plan with its provenance, as `svl --from` reads it. seed: of the bundled set."""
    ids = strip["ids"]
    return json.dumps(
        {
            "model": state["model"],
            "layer_indices": "0-based, in the original model",
            "num_layers": len(ids),
            "drop": [ids[k] for k in strip["drop"]],
            "keep": [ids[k] for k in range(len(ids)) if k not in strip["drop"]],
            "criterion": ranked_by(strip),
            "visual_share": now.visual_share,
            "seed": calibration.SEED,
            "settings": {f.name: getattr(now, f.name) for f in fields(Settings)},
            "versions": versions(),
        },
        indent=2,
    )


def mergekit(state: Mapping, strip: Mapping) -> str:
    """A mergekit passthrough recipe of the kept layers (layer_range: the end is excluded)."""
    kept = [k for k in range(len(strip["ids"])) if k not in strip["drop"]]
    lines = [
        "# Kept decoder layers, uncompensated; indices are 0-based and the end of a range is"
        " excluded."
    ]
    lines += (
        [
            '# The bundled model lies in no folder yet: svl.load("demo").save("demo") in Python'
            " makes one."
        ]
        if state["model"] == "demo"
        else []
    )
    lines.append("slices:")
    for a, b in runs_of(kept):
        lines += [
            "  - sources:",
            f"      - model: {json.dumps(state['model'])}",
            f"        layer_range: [{strip['ids'][a]}, {strip['ids'][b] + 1}]",
        ]
    return "\n".join([*lines, "merge_method: passthrough", "dtype: float32"]) + "\n"


# a plan's file says them at every move of a control, and reading them takes longer than many a
# figure
@functools.cache
def versions() -> dict[str, str]:
    out = {"svl_core": svl.__version__, "python": sys.version.split()[0]}
    for name in ("torch", "transformers", "plotly", "gradio"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def in_words(state: Mapping, strip: Mapping, now: Settings, basis: str) -> dict[str, str]:
    """What was done, for a reader who never saw the page. basis: what ranks and what is fitted on,
    in a sentence.
    """
    ranked, row = ranked_by(strip), svl.COMPENSATIONS[now.compensation]
    fit = (
        [f"rank {now.rank}, strength {now.strength:g}"]
        if now.compensation == "scp"
        else [f"rank {now.rank}"]
        if now.compensation == "bridge"
        else []
    )
    fit += ["attention outputs edited too"] if now.attention_target and row.fitted else []
    return {
        "Model": state["model"],
        "Prompt": state["prompt"],
        "Dropped layers (0-based)": (
            ", ".join(str(strip["ids"][k]) for k in strip["drop"]) or "none"
        ),
        "Ranked by": (
            "nothing: the layers are chosen by hand"
            if ranked == "manual"
            else svl.CRITERIA[ranked].title
        ),
        "Compensation": ", ".join([row.title, *fit]) if strip["drop"] else "nothing to compensate",
        "Samples": basis,
        "Important tokens": (
            f"top-p {now.top_p:g}, a share of the"
            f" {'tokens' if now.mode == 'fraction' else 'score'}; visual and text tokens apart"
        ),
        "Attention of text tokens": (
            f"{now.text_self}{', corrected for causal masking' if now.causal_correction else ''}"
        ),
        "First and last layer": "protected" if now.protect_ends else "droppable",
        "Visual tokens that the pruned model reads": f"{100 * now.visual_share:g} %",
        "Answer length": f"at most {now.max_new_tokens} tokens",
        "Importance drawn": "mean of all layers" if now.all_layers else f"layer {now.layer}",
    }


def report(
    title: str,
    facts: Mapping[str, str],
    picture: Mapping,
    parts: Sequence[tuple[str, str, Mapping | None]],
    answers: str,
    plotly_js: str,
    css: str,
) -> str:
    """One HTML file that needs nothing else. facts: of `in_words`; picture: {"heading", "reading",
    "src", "alt", "scale"}; parts: (heading, reading, {"figure", "alt"}); `answers` is escaped
    markup.
    """
    figures, scripts = [], []
    for number, (heading, reading, figure) in enumerate(parts):
        if figure:
            figures.append(
                f'<section class="card"><h2>{html.escape(heading)}</h2><p'
                f' class="read">{reading}</p><div id="f{number}" role="img"'
                f' aria-label="{html.escape(figure["alt"])}"></div></section>'
            )
            drawn = figure["figure"].replace(
                "</", "<\\/"
            )  # a token named </script> must not end the script
            scripts.append(
                "{const"
                f' f={drawn};f.layout.font.color=getComputedStyle(document.body).color;Plotly.newPlot("f{number}",f.data,f.layout,{{displayModeBar:false,responsive:true}})}}'
            )
    told = facts | {"Made with": ", ".join(f"{k} {v}" for k, v in versions().items())}
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>"
        for k, v in told.items()
    )
    image = (
        f'<section class="card"><h2>{picture["heading"]}</h2><p'
        f' class="read">{picture["reading"]}</p><img src="{picture["src"]}"'
        f' alt="{html.escape(picture["alt"])}">{picture["scale"]}</section>'
        if picture
        else ""
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width"><title>{html.escape(title)}</title><style>{css}</style>'
        f"<body><main><h1>{html.escape(title)}</h1><p"
        f' class="lede">{html.escape(facts["Prompt"])}</p>{answers}{image}{"".join(figures)}'
        '<section class="card"><h2>What was done</h2><table class="facts'
        f' done">{rows}</table></section></main><script>{plotly_js}</script><script>{";".join(scripts)}</script></body></html>'
    )

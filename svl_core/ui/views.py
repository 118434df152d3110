"""Results -> markup for the page. Every piece of user or model text passes through `esc`."""

from __future__ import annotations

import base64
import difflib
import html
import io
import re
from collections.abc import Mapping, Sequence

from PIL import Image

QUALITY = 86  # of pictures, of 100


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


def data_url(image: Image.Image, small: bool = False) -> str:
    """The image as a data address: a JPEG, written in a tenth of the time that a WebP takes.

    small: as a WebP instead, a third as many bytes, for what is written once and sent often.
    """
    kind, options = ("webp", {"method": 2}) if small else ("jpeg", {})
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, quality=QUALITY, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def step_head(number: int, title: str, lede: str) -> str:
    return (
        '<div class="step-head"><h2><b'
        f' aria-hidden="true">{number}</b><span>{esc(title)}</span></h2><p>{esc(lede)}</p></div>'
    )


def figure_head(title: str, reading: str) -> str:
    """`reading` is the page's own markup."""
    return f'<div class="figure-head"><h3>{esc(title)}</h3><p class="read">{reading}</p></div>'


def why(name: str, text: str) -> str:
    return (
        '<details class="why"'
        f' data-name="{esc(name)}"><summary>Why</summary><p>{esc(text)}</p></details>'
    )


def header(title: str, lede: str) -> str:
    bars = "".join(f"<i{' class=o' if k in (6, 9, 10, 13) else ''}></i>" for k in range(16))
    return (
        '<div class="barcode"'
        f' aria-hidden="true">{bars}</div><h1>{esc(title)}</h1><p>{esc(lede)}</p>'
    )


def status(text: str = "", fraction: float | None = None) -> str:
    """The pill at the top: empty text hides it; no fraction means that nobody knows how long."""
    if not text:
        return ""
    style = (
        ' class="pill open"'
        if fraction is None
        else f' class="pill" style="--v:{min(max(fraction, 0), 1):.3f}"'
    )
    return f'<div{style} role="status">{esc(text)}</div>'


def progress(text: str, share: float | None = None) -> str:
    """How far a section's own work is; share 0..1, None where it does not run."""
    bar = (
        ""
        if share is None
        else (
            f'<progress max="1" value="{min(max(share, 0), 1):.3f}"'
            ' aria-label="Progress"></progress>'
        )
    )
    return f'<p class="read work" role="status">{bar}{esc(text)}</p>' if text or bar else ""


def visit(session: str) -> str:
    """Tells the page's script which session it is of."""
    return f'<i data-session="{esc(session)}"></i>'


def choices(title: str, picks: Sequence[tuple[str, str, str]], pressed: str) -> str:
    """Buttons in a row, one of them pressed, that raise `pick` with their value.

    picks: (value, text, what is said of it).
    """
    buttons = "".join(
        f'<button type="button" data-pick="{esc(value)}"'
        f' aria-pressed="{str(value == pressed).lower()}" title="{esc(said)}">{esc(text)}</button>'
        for value, text, said in picks
    )
    label = f'<p class="small-title">{esc(title)}</p>'
    return f'{label}<div class="chips" role="group" aria-label="{esc(title)}">{buttons}</div>'


def picture(title: str, image: Image.Image, alt: str) -> str:
    """A picture under its title."""
    source = data_url(image)
    return (
        f'<figure><figcaption>{esc(title)}</figcaption><img src="{source}"'
        f' alt="{esc(alt)}"></figure>'
    )


def note(text: str) -> str:
    return f'<p class="note">{esc(text)}</p>' if text else ""


def offer(text: str, value: str) -> str:
    """A button that raises `pick` with the value."""
    return f'<button type="button" class="offer" data-pick="{esc(value)}">{esc(text)}</button>'


def read(text: str) -> str:
    """A quiet sentence under a control."""
    return f'<p class="read">{esc(text)}</p>' if text else ""


def code_line(text: str, code: str) -> str:
    """A quiet sentence with a line of code behind it."""
    return f'<p class="read">{esc(text)} <code>{esc(code)}</code></p>'


def examples(items: Sequence[tuple[str, str, str]]) -> str:
    """(image address, question, caption) -> thumbnails as buttons; picking one raises its index."""
    cells = "".join(
        f'<button type="button" data-pick="{k}"><img src="{src}" alt="" width="64" height="64">'
        f"<span><b>{esc(question)}</b>{esc(caption)}</span></button>"
        for k, (src, question, caption) in enumerate(items)
    )
    return f'<p class="small-title">Examples</p><div class="rows">{cells}</div>'


def chips(questions: Sequence[str]) -> str:
    if not questions:
        return ""
    buttons = "".join(
        f'<button type="button" data-pick="{esc(q)}">{esc(q)}</button>' for q in questions
    )
    return f'<p class="small-title">Questions to try</p><div class="chips">{buttons}</div>'


WORDS = 800  # tokens shown at most


def words(
    tokens: Sequence[str],
    scores: Sequence[float],
    selected: Sequence[bool],
    own: Sequence[bool],
    focus: int | None = None,
) -> str:
    """The prompt's tokens with their importance.

    Of more than `WORDS` tokens the user's own and then the most important are shown, and a sign
    where others are left out.

    tokens, scores: (T,) strings, and their importance.
    selected: (T,) whether they count.
    own: (T,) whether the user wrote them, and not the chat template.
    focus: the token that was picked.
    """
    top = max([float(score) for score in scores], default=0.0) or 1.0
    order = sorted(range(len(tokens)), key=lambda k: (k != focus, not own[k], -float(scores[k])))
    shown = set(order[:WORDS])
    cells: list[str] = []
    for k, token in enumerate(tokens):
        if k in shown:
            cells.append(
                _word(k, token, float(scores[k]), top, selected[k], own[k], pressed=k == focus)
            )
        elif not cells or cells[-1] != LEFT_OUT:
            cells.append(LEFT_OUT)
    return f'<div class="words">{"".join(cells)}</div>'


LEFT_OUT = "<span>…</span>"


def _word(
    index: int, token: str, score: float, top: float, counts: bool, own: bool, pressed: bool
) -> str:
    """A token as a button, with its score as a share of the largest one."""
    classes = " ".join(filter(None, ("" if counts else "out", "" if own else "mark")))
    shown = (token.strip(" ") or "␣").replace("\n", "↵")
    said = (
        f"{shown}: importance {score:.4f}, {'counts' if counts else 'left out'}"
        f"{'' if own else ', chat template'}"
    )
    return (
        f'<button type="button" data-pick="{index}" class="{classes}"'
        f' style="--v:{max(score, 0) / top:.3f}"'
        f' aria-pressed="{str(pressed).lower()}" aria-label="{esc(said)}"'
        f' title="{esc(said)}">{esc(shown)}</button>'
    )


def scale(low: float, high: float, kind: str = "") -> str:
    """The colours' scale; kind "diverging": from the pruned model's orange to the full model's
    blue.
    """
    return (
        f'<div class="scale {kind}"><span>{low:.3f}</span><i'
        f' aria-hidden="true"></i><span>{high:.3f}</span></div>'
    )


def numbers(name: str, rows: Sequence[Sequence[str]]) -> str:
    """A fold with the numbers behind a figure; the first row holds the columns' names."""
    head = "".join(f'<th scope="col">{esc(cell)}</th>' for cell in rows[0])
    body = "".join(_row(row[0], row[1:]) for row in rows[1:])
    return (
        f'<details class="svl-numbers" data-name="numbers-{esc(name)}"><summary>Numbers</summary>'
        '<div class="svl-scroll" tabindex="0" role="region" aria-label="Numbers of the'
        f' {esc(name)}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        "</details>"
    )


def _row(head: str, cells: Sequence[str], small: str = "") -> str:
    """A row of a table: its heading, with a small print, and its cells."""
    small = f"<small>{esc(small)}</small>" if small else ""
    values = "".join(f"<td>{two_lines(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{esc(head)}{small}</th>{values}</tr>'


def two_lines(text: str) -> str:
    """Text as markup, what follows a line break in small print below."""
    above, _, below = text.partition("\n")
    return esc(above) + (f"<small>{esc(below)}</small>" if below else "")


def glossary(entries: Sequence[tuple[str, str]]) -> str:
    """Term and meaning; text between backquotes is set as a formula."""
    meaning = lambda text: re.sub(r"`([^`]+)`", r"<code>\1</code>", esc(text))  # noqa: E731
    return (
        '<dl class="glossary">'
        + "".join(f"<dt>{esc(term)}</dt><dd>{meaning(text)}</dd>" for term, text in entries)
        + "</dl>"
    )


def sources(links: Sequence[tuple[str, str]]) -> str:
    """(what, address) -> a list of links, each opened beside the page."""
    lines = "".join(
        f'<li><a href="{esc(address)}" target="_blank" rel="noopener">{esc(what)}</a></li>'
        for what, address in links
    )
    return f'<ul class="sources">{lines}</ul>'


def plan_line(sentence: str) -> str:
    keys = (
        '<span class="key"><i class="k"></i>kept</span><span class="key"><i'
        ' class="g"></i>dropped</span><span class="key"><i class="f"></i>protected</span>'
    )
    return f'<p class="plan-line" role="status">{keys}{esc(sentence)}</p>'


def hero_answers(
    full: str,
    pruned: str,
    layers: int,
    dropped: int,
    saved: float = 0.0,
    correct: str | None = None,
    growing: bool = False,
    outside: bool = False,
) -> str:
    """Both answers under one another, and what separates them in a sentence.

    full, pruned: the answers, "" where there is none yet.
    saved: share of the parameters that is dropped.
    correct: the right answer, where it is known.
    growing: whether the models still write.
    outside: whether the picture is none of the model's world.
    """
    spans = ([], []) if growing else differing_words(full, pruned)
    sides = (
        ("full", "Full model", f"{layers} layers", full, spans[0]),
        ("pruned", "Pruned model", f"{layers - dropped} layers", pruned, spans[1]),
    )
    cards = "".join(_hero_answer(*side, correct, growing) for side in sides)
    if growing or not full:
        return cards + '<p class="hero-verdict" role="status"></p>'
    same = full.strip() == pruned.strip()
    sentence = esc(verdict_of(full, pruned, layers, dropped, saved, outside=outside))
    kind = "guessed" if outside else "same" if same else "parted"
    verdict = f'<p class="hero-verdict {kind}" role="status">{sentence}</p>'
    return f'{cards}<div class="hero-foot">{verdict}{share()}</div>'


def share() -> str:
    """A button that hands on the link to what is shown; static/share.js acts on it."""
    return (
        '<button type="button" class="svl-share" data-share title="Copies the link to this very'
        ' result"><span aria-hidden="true">↗</span><b>Share</b></button>'
    )


LONG = 70  # letters from which an answer is set smaller


def _hero_answer(
    kind: str,
    title: str,
    side: str,
    text: str,
    spans: Spans,
    correct: str | None,
    growing: bool,
) -> str:
    mark = ""
    if correct and text and not growing:
        right = is_right(text, correct)
        mark = f'<i class="{"right" if right else "wrong"}">{"✓ right" if right else "✗ wrong"}</i>'
    shown = answer_text(text, spans, element="") if text else "…"
    size = ' class="long"' if len(text) > LONG else ""
    return (
        f'<div class="hero-answer {kind}"><h2>{title}<span>{esc(side)}</span>{mark}</h2>'
        f"<p{size}>{shown}</p></div>"
    )


AHEAD = 2  # words that an answer's end keeps before the first that differs


def glance(
    full: str,
    pruned: str,
    layers: int = 0,
    dropped: int = 0,
    growing: bool = False,
    outside: bool = False,
) -> str:
    """Both answers, each in a line, for the dock: from shortly before the first word that differs,
    which is what one looks for. growing, outside: see `hero_answers`.
    """
    if not full and not pruned:
        return ""
    spans = ([], []) if growing else differing_words(full, pruned)
    lines = "".join(
        f'<span title="{esc(text)}"><b>{name}</b>{_from_parting(text, marked)}</span>'
        for name, text, marked in (("Full", full, spans[0]), ("Pruned", pruned, spans[1]))
    )
    found = ""
    if not growing:
        same = full.strip() == pruned.strip()
        found = "guesses" if outside else "same answer" if same else "the answers part"
        found = f"{layers - dropped} of {layers} layers: {found}"
    return f'<p class="glance" aria-hidden="true">{lines}<em>{found}</em></p>'


def _from_parting(text: str, spans: Spans) -> str:
    """An answer as markup, without most of what precedes its first word that differs."""
    parting = next((start for start, _, tag in spans if tag == "mark"), 0)
    words = [start for start, _ in word_spans(text) if start < parting]
    if len(words) <= AHEAD + 1:
        return answer_text(text, spans, element="")
    cut = words[-AHEAD]
    moved = [(start - cut, end - cut, tag) for start, end, tag in spans if start >= cut]
    return "… " + answer_text(text[cut:], moved, element="")


def criteria(
    rows: Sequence[tuple[str, str, str, Sequence[int] | None]],
    count: int,
    protected: Sequence[int],
    current: str,
    plan: Sequence[int],
) -> str:
    """Every criterion's choice as a small strip, and its overlap with the plan.

    rows: (name, title, formula, dropped layers; None where the model has to run for them).
    count: of the layers.
    """
    buttons = []
    for name, title, formula, drop in rows:
        pressed = str(name == current and drop is not None).lower()
        shown = _unmeasured(title) if drop is None else _choice(title, drop, count, protected, plan)
        buttons.append(
            f'<button type="button" data-pick="{esc(name)}" aria-pressed="{pressed}"'
            f' title="{esc(formula)}">{shown}</button>'
        )
    return f'<div class="criteria">{"".join(buttons)}</div>'


def _unmeasured(title: str) -> str:
    return f"<span>{esc(title)}</span><span>runs the model</span><small>click to measure</small>"


def _choice(
    title: str,
    drop: Sequence[int],
    count: int,
    protected: Sequence[int],
    plan: Sequence[int],
) -> str:
    common = len(set(drop) & set(plan))
    said = f"drops layers {', '.join(map(str, sorted(drop))) or 'none'};"
    return (
        f'<span>{esc(title)}<span class="unseen">: {said}</span></span><span class="mini"'
        f' aria-hidden="true">{layer_cells(count, drop, protected)}</span>'
        f"<small>{common} of {len(plan)} shared</small>"
    )


def layer_cells(count: int, drop: Sequence[int], protected: Sequence[int]) -> str:
    """The layers as small bars: "o" for one that is gone, "f" for a protected one."""
    kinds = ["o" if k in drop else "f" if k in protected else "" for k in range(count)]
    return "".join(f'<i class="{kind}"></i>' for kind in kinds)


# a token is framed where the pruned model gives it less than this share of the full model's
# probability
LOST = 0.5


def odds(tokens: Sequence[str], full: Sequence[float], pruned: Sequence[float]) -> str:
    """Tokens of the full model's answer with their probability under both models, 0..1."""
    cells = []
    for token, ours, theirs in zip(tokens, full, pruned, strict=False):
        shown = token.strip(" ").replace("\n", "↵") or ("␣" if token else "end")
        said = f"{shown}: full {100 * ours:.1f} %, pruned {100 * theirs:.1f} %"
        low = " low" if theirs < LOST * ours else ""
        cells.append(
            f'<span class="t{low}" role="img" aria-label="{esc(said)}" title="{esc(said)}">'
            f'{esc(shown)}<i style="--v:{ours:.3f}"></i><i class="p" style="--v:{theirs:.3f}"></i>'
            "</span>"
        )
    return f'<div class="odds">{"".join(cells)}</div>'


def answer_text(text: str, spans: Sequence[tuple[int, int, str]] = (), element: str = "p") -> str:
    """An answer's words with its `spans` marked (see `answer`), inside an `element` unless that is
    empty.
    """
    body, at = "", 0
    for start, end, tag in spans:
        open_, close = (
            ("<mark>", "</mark>") if tag == "mark" else ('<span class="differs">', "</span>")
        )
        shown = esc(text[start:end]) if end > start else "<em>(ends here)</em>"
        body += esc(text[at:start]) + open_ + shown + close
        at = end
    body += esc(text[at:])
    return f'<{element} class="text">{body}</{element}>' if element else body


def answer(
    title: str,
    side: str,
    text: str,
    meta: str = "",
    spans: Sequence[tuple[int, int, str]] = (),
    growing: bool = False,
) -> str:
    """One answer. spans: (start, end, tag) with tag "mark" (first divergent word) or "differs", in
    order, not overlapping.
    """
    body = answer_text(text, spans, element="")
    caret = '<span class="caret" aria-hidden="true"></span>' if growing else ""
    empty = "" if (body or growing) else " empty"
    shown = body or ("" if growing else "No words yet.")
    return (
        f'<div class="answer"><h3>{esc(title)}<span>{esc(side)}</span></h3><p class="text{empty}"'
        f' aria-live="polite" aria-busy="{str(growing).lower()}">{shown}{caret}</p><p'
        f' class="meta">{esc(meta)}</p></div>'
    )


Spans = list[tuple[int, int, str]]


def differing_words(full: str, pruned: str) -> tuple[Spans, Spans]:
    """Spans of the words that differ, in each text; the first of each is the divergent word."""
    left, right = word_spans(full), word_spans(pruned)
    ours = [full[start:end] for start, end in left]
    theirs = [pruned[start:end] for start, end in right]
    parting = first_difference(ours, theirs)
    spans: tuple[Spans, Spans] = ([], [])
    if parting == len(left) == len(right):
        return spans
    # the words before it are the same, also where they come again later
    matcher = difflib.SequenceMatcher(None, ours[parting:], theirs[parting:], autojunk=False)
    for change, ours_from, ours_to, theirs_from, theirs_to in matcher.get_opcodes():
        if change != "equal":
            changed = range(parting + ours_from, parting + ours_to)
            spans[0].extend((*left[word], "differs") for word in changed)
            changed = range(parting + theirs_from, parting + theirs_to)
            spans[1].extend((*right[word], "differs") for word in changed)
    for side, places, text in ((0, left, full), (1, right, pruned)):
        end = (len(text), len(text))
        place = places[parting] if parting < len(places) else end
        others = [span for span in spans[side] if span[:2] != place]
        spans[side][:] = sorted([*others, (*place, "mark")])
    return spans


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every word."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def first_difference(left: Sequence[str], right: Sequence[str]) -> int:
    """At which word two texts part; the length of the shorter one where it begins the other."""
    pairs = enumerate(zip(left, right, strict=False))
    parts = (k for k, (ours, theirs) in pairs if ours != theirs)
    return next(parts, min(len(left), len(right)))


def count(number: float) -> str:
    """1234567 -> '1.23 M'."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def speed(found) -> str:
    """A measured speed-up, or the word noise, and on a second line the expected one."""
    measured = "noise" if found.noise else times(found.measured)
    return f"{measured}\nexpected {times(found.expected)}"


def verdict(
    comparison,
    dropped: int,
    layers: int,
    visual: tuple[int, int] | None = None,
    outside: bool = False,
) -> str:
    """What separates both models, in a sentence. visual, outside: see `metrics`."""
    saved = 1 - comparison.parameters_pruned / comparison.parameters_full
    texts = comparison.full.text, comparison.pruned.text
    return verdict_of(*texts, layers, dropped, saved, visual, outside)


def verdict_of(
    full: str,
    pruned: str,
    layers: int,
    dropped: int,
    saved: float,
    visual: tuple[int, int] | None = None,
    outside: bool = False,
) -> str:
    """The same of two answers. saved: share of the parameters that is dropped."""
    if not dropped and not visual:
        return "Nothing is dropped: both are the same model."
    gone = f"{dropped} of {layers} layers gone, {100 * saved:.0f} % fewer parameters"
    if visual and visual[1] == visual[0]:
        gone += ", layers skip visual tokens"
    elif visual:
        gone += f", {visual[1]} of {visual[0]} visual tokens read"
    if outside:
        return (
            "Both answers are guesses: this model knows drawn scenes only, so whether they agree"
            f" says nothing. {gone}."
        )
    if full.strip() == pruned.strip():
        return f"Same answer with {gone}."
    word = first_difference(full.split(), pruned.split()) + 1
    return f"The answers part at word {word}: {gone}."


def is_right(text: str, correct: str) -> bool:
    """Whether an answer is the right one, but for its case and a full stop."""
    return text.strip().lower().rstrip(".") == correct.lower()


def metrics(
    comparison,
    dropped: int,
    layers: int,
    correct: str | None = None,
    visual: tuple[int, int] | None = None,
    outside: bool = False,
    asked: Mapping[str, object] = {},
) -> str:
    """The table of size, speed and fidelity, under a verdict in one sentence.

    correct: the right answer, where it is known.
    visual: tokens of the image that each model read, where they differ; as many of both where
        layers of the pruned one skip them.
    outside: whether the picture is none of the model's world.
    asked: what the numbers belong to, by name; the page's scripts find it in the table's data.
    """
    rows = [
        *_size_rows(comparison, dropped, layers, visual),
        *_time_rows(comparison, changed=bool(dropped or visual)),
        *_fidelity_rows(comparison),
    ]
    body = "".join(_row(head, cells, small) for head, small, *cells in rows)
    heads = ("Measure", "Full", "Pruned", "Change")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    sentence = esc(verdict(comparison, dropped, layers, visual, outside))
    marks = "".join(f' data-{name}="{esc(value)}"' for name, value in asked.items())
    return (
        f'<p class="verdict">{sentence}</p>{_truth(comparison, correct)}<table'
        f' class="facts" data-kl="{comparison.kl:.6f}"'
        f' data-agreement="{comparison.agreement:.6f}"{marks}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{_noise(comparison, dropped or visual)}"
    )


def halves_metrics(comparison, plan) -> str:
    """`metrics` of a plan of halves of layers."""
    every = 2 * plan.num_layers
    fewer = 1 - comparison.parameters_pruned / comparison.parameters_full
    gone = f"{plan.halves} of {every} halves gone, {100 * fewer:.0f} % fewer parameters"
    full, pruned = comparison.full.text, comparison.pruned.text
    sentence = f"Same answer with {gone}."
    if full.strip() != pruned.strip():
        word = first_difference(full.split(), pruned.split()) + 1
        sentence = f"The answers part at word {word}: {gone}."
    rows = [
        *_time_rows(comparison, changed=plan.changes),
        *_fidelity_rows(comparison),
    ]
    body = "".join(_row(head, cells, small) for head, small, *cells in rows)
    names = ("Measure", "Full", "Without", "Change")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<p class="verdict">{esc(sentence)}</p><table class="facts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{_noise(comparison, plan.changes)}"
    )


def _noise(comparison, changed: object) -> str:
    """Why measured speed-ups are noise, a sentence each; none where nothing changed."""
    parts = (
        ("First token", comparison.speed_prefill),
        ("Each further token", comparison.speed_decode),
    )
    sentences = [
        f"{name}: measured {times(found.measured)} is noise, {found.noise}."
        for name, found in parts
        if changed and found.noise
    ]
    return f'<p class="read">{esc(" ".join(sentences))}</p>' if sentences else ""


def _truth(comparison, correct: str | None) -> str:
    if not correct:
        return ""
    marks = [
        f"{name} {'✓ right' if is_right(answer.text, correct) else '✗ wrong'}"
        for name, answer in (("full", comparison.full), ("pruned", comparison.pruned))
    ]
    return (
        f'<p class="read">Correct answer: <strong>{esc(correct)}</strong> ({", ".join(marks)}).</p>'
    )


Row = tuple[str, str, str, str, str]
"""Of the table: measure, small print, full, pruned, change."""


def _size_rows(comparison, dropped: int, layers: int, visual: tuple[int, int] | None) -> list[Row]:
    full, pruned = comparison.parameters_full, comparison.parameters_pruned
    saved = pruned / full - 1
    gone = f"{-dropped:+d}" if dropped else "0"
    less = f"{100 * saved:+.1f} %" if saved else "0"
    rows = [
        ("Decoder layers", "", str(layers), str(layers - dropped), gone),
        ("Parameters", "the whole model", count(full), count(pruned), less),
    ]
    if visual:
        every, read = visual
        small = "the pruned model's first token counts what chose them"
        fewer = f"{100 * (read / every - 1):+.0f} %"
        if read == every:
            small, fewer = "some layers of the pruned model do not update them", "0"
        rows.append(("Visual tokens", small, str(every), str(read), fewer))
    return rows


def _time_rows(comparison, changed: bool) -> list[Row]:
    """changed: whether anything is; where nothing changed, times differ by chance."""
    full, pruned = comparison.full, comparison.pruned
    small = "time from image and prompt"
    if pruned.shared_ms:
        small += (
            f"; the pruned model's counts {milliseconds(pruned.shared_ms)} that both share and the"
            " server spent once"
        )
    prefill, decode = comparison.speed_prefill, comparison.speed_decode
    return [
        (
            "First token",
            small,
            milliseconds(full.prefill_ms),
            milliseconds(pruned.prefill_ms),
            speed(prefill) if changed else "–",
        ),
        (
            "Each further token",
            "median",
            milliseconds(full.per_token_ms),
            milliseconds(pruned.per_token_ms),
            speed(decode) if changed else "–",
        ),
    ]


def _fidelity_rows(comparison) -> list[Row]:
    reading = "same next token, reading the full model's answer"
    agreement = f"{100 * comparison.agreement:.0f} %"
    nats = "nats per token; 0 = same predictions"
    return [
        ("Agreement", reading, "100 %", agreement, ""),
        ("KL divergence", nats, "0", f"{comparison.kl:.3f}", ""),
    ]

"""Results -> markup for the page. Every piece of user or model text passes through `esc`."""

from __future__ import annotations

import base64
import difflib
import html
import io
import re
from collections.abc import Sequence

from PIL import Image


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


def data_url(image: Image.Image, quality: int = 86) -> str:
    """The image as a WebP data address."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


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


def note(text: str) -> str:
    return f'<p class="note">{esc(text)}</p>' if text else ""


def read(text: str) -> str:
    """A quiet sentence under a control."""
    return f'<p class="read">{esc(text)}</p>' if text else ""


def examples(items: Sequence[tuple[str, str]]) -> str:
    """(image address, question) -> thumbnails as buttons; picking one raises its index."""
    cells = "".join(
        f'<button type="button" data-pick="{k}"><img src="{src}" alt="Example scene {k + 1}"'
        f' width="112" height="112"><span>{esc(question)}</span></button>'
        for k, (src, question) in enumerate(items)
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
    """The prompt's tokens with their importance: (T,) strings, scores, whether they count, whether
    the user wrote them.

    Of more than `WORDS` tokens the user's own and then the most important are shown, and a sign
    where others are left out.
    """
    top = max([float(s) for s in scores], default=0.0) or 1.0
    order = sorted(range(len(tokens)), key=lambda k: (k != focus, not own[k], -float(scores[k])))
    shown_ones, out, gap = set(order[:WORDS]), [], False
    for k, (token, score, keep, mine) in enumerate(zip(tokens, scores, selected, own)):
        if k not in shown_ones:
            out += [] if gap else ["<span>…</span>"]
            gap = True
            continue
        gap = False
        classes = " ".join(c for c, on in (("out", not keep), ("mark", not mine)) if on)
        shown = token.strip(" ") or "␣"
        shown = shown.replace("\n", "↵")
        said = (
            f"{shown}: importance {float(score):.4f},"
            f" {'counts' if keep else 'left out'}{'' if mine else ', chat template'}"
        )
        out.append(
            f'<button type="button" data-pick="{k}" class="{classes}"'
            f' style="--v:{max(float(score), 0) / top:.3f}"'
            f' aria-pressed="{str(k == focus).lower()}" aria-label="{esc(said)}"'
            f' title="{esc(said)}">{esc(shown)}</button>'
        )
    return f'<div class="words">{"".join(out)}</div>'


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
    body = "".join(
        "<tr><th"
        f' scope="row">{esc(row[0])}</th>{"".join(f"<td>{esc(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows[1:]
    )
    return (
        '<details class="svl-numbers"'
        f' data-name="numbers-{esc(name)}"><summary>Numbers</summary><div class="svl-scroll"'
        ' tabindex="0" role="region" aria-label="Numbers of the'
        f' {esc(name)}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def glossary(entries: Sequence[tuple[str, str]]) -> str:
    """Term and meaning; text between backquotes is set as a formula."""
    meaning = lambda text: re.sub(r"`([^`]+)`", r"<code>\1</code>", esc(text))  # noqa: E731
    return (
        '<dl class="glossary">'
        + "".join(f"<dt>{esc(term)}</dt><dd>{meaning(text)}</dd>" for term, text in entries)
        + "</dl>"
    )


def plan_line(sentence: str) -> str:
    keys = (
        '<span class="key"><i class="k"></i>kept</span><span class="key"><i'
        ' class="g"></i>dropped</span><span class="key"><i class="f"></i>protected</span>'
    )
    return f'<p class="plan-line" role="status">{keys}{esc(sentence)}</p>'


def glance(full: str, pruned: str) -> str:
    """Both answers in one line, for the dock."""
    if not full and not pruned:
        return ""
    cells = "".join(
        f'<span title="{esc(text)}"><b>{name}</b>{esc(text)}</span>'
        for name, text in (("Full", full), ("Pruned", pruned))
    )
    return f'<p class="glance" aria-hidden="true">{cells}</p>'


def criteria(
    rows: Sequence[tuple[str, str, str, Sequence[int] | None]],
    count: int,
    protected: Sequence[int],
    current: str,
    plan: Sequence[int],
) -> str:
    """Every criterion's choice as a small strip: (name, title, formula, dropped layers, None where
    the model has to run for them) of `count` layers, and its overlap with the plan.
    """
    out = []
    for name, title, formula, drop in rows:
        if drop is None:
            out.append(
                f'<button type="button" data-pick="{esc(name)}" aria-pressed="false"'
                f' title="{esc(formula)}"><span>{esc(title)}</span><span>runs the'
                " model</span><small>click to measure</small></button>"
            )
            continue
        cells = "".join(
            f'<i class="{"o" if k in drop else "f" if k in protected else ""}"></i>'
            for k in range(count)
        )
        common = len(set(drop) & set(plan))
        said = f"drops layers {', '.join(map(str, sorted(drop))) or 'none'};"
        out.append(
            f'<button type="button" data-pick="{esc(name)}"'
            f' aria-pressed="{str(name == current).lower()}"'
            f' title="{esc(formula)}"><span>{esc(title)}<span class="unseen">:'
            f' {said}</span></span><span class="mini"'
            f' aria-hidden="true">{cells}</span><small>{common} of {len(plan)}'
            " shared</small></button>"
        )
    return f'<div class="criteria">{"".join(out)}</div>'


# a token is framed where the pruned model gives it less than this share of the full model's
# probability
LOST = 0.5


def odds(tokens: Sequence[str], full: Sequence[float], pruned: Sequence[float]) -> str:
    """Tokens of the full model's answer with their probability under both models, 0..1."""
    cells = []
    for token, a, b in zip(tokens, full, pruned):
        shown = token.strip(" ").replace("\n", "↵") or ("␣" if token else "end")
        said = f"{shown}: full {100 * a:.1f} %, pruned {100 * b:.1f} %"
        cells.append(
            f'<span class="t{" low" if b < LOST * a else ""}" role="img" aria-label="{esc(said)}"'
            f' title="{esc(said)}">{esc(shown)}<i style="--v:{a:.3f}"></i><i class="p"'
            f' style="--v:{b:.3f}"></i></span>'
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


def differing_words(
    full: str, pruned: str
) -> tuple[list[tuple[int, int, str]], list[tuple[int, int, str]]]:
    """Spans of the words that differ, in each text; the first of each is the divergent word."""
    left, right = ([m.span() for m in re.finditer(r"\S+", t)] for t in (full, pruned))
    ours, theirs = (
        [text[a:b] for a, b in spans] for text, spans in ((full, left), (pruned, right))
    )
    index = next(
        (k for k, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(left), len(right))
    )
    out: tuple[list, list] = ([], [])
    if index == len(left) == len(right):
        return out
    matcher = difflib.SequenceMatcher(
        None, ours[index:], theirs[index:], autojunk=False
    )  # the words before it are the same, also where they come again later
    for op, a0, a1, b0, b1 in matcher.get_opcodes():
        if op != "equal":
            out[0].extend((*left[index + k], "differs") for k in range(a0, a1))
            out[1].extend((*right[index + k], "differs") for k in range(b0, b1))
    for side, spans, text in ((0, left, full), (1, right, pruned)):
        place = spans[index] if index < len(spans) else (len(text), len(text))
        out[side][:] = sorted([s for s in out[side] if s[:2] != place] + [(*place, "mark")])
    return out


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


def verdict(comparison, dropped: int, layers: int, visual: tuple[int, int] | None = None) -> str:
    saved = 1 - comparison.parameters_pruned / comparison.parameters_full
    if not dropped and not visual:
        return "Nothing is dropped: both are the same model."
    gone = f"{dropped} of {layers} layers gone, {100 * saved:.0f} % fewer parameters" + (
        f", {visual[1]} of {visual[0]} visual tokens read" if visual else ""
    )
    if comparison.full.text.strip() == comparison.pruned.text.strip():
        return f"Same answer with {gone}."
    left, right = comparison.full.text.split(), comparison.pruned.text.split()
    at = next(
        (k for k, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right))
    )
    return f"The answers part at word {at + 1}: {gone}."


def is_right(text: str, correct: str) -> bool:
    """Whether an answer is the right one, but for its case and a full stop."""
    return text.strip().lower().rstrip(".") == correct.lower()


def metrics(
    comparison,
    dropped: int,
    layers: int,
    correct: str | None = None,
    visual: tuple[int, int] | None = None,
) -> str:
    """The table of size, speed and fidelity, under a verdict in one sentence. visual: tokens of the
    image that each model read, where they differ.
    """
    c = comparison
    saved, changed = (
        c.parameters_pruned / c.parameters_full - 1,
        dropped or visual,
    )  # where nothing changed, times differ by chance
    truth = ""
    if correct:
        marks = [
            f"{name} {'✓ right' if is_right(a.text, correct) else '✗ wrong'}"
            for name, a in (("full", c.full), ("pruned", c.pruned))
        ]
        truth = (
            f'<p class="read">Correct answer: <strong>{esc(correct)}</strong>'
            f" ({', '.join(marks)}).</p>"
        )
    rows = [
        (
            "Decoder layers",
            "",
            str(layers),
            str(layers - dropped),
            f"{-dropped:+d}" if dropped else "0",
        ),
        (
            "Parameters",
            "the whole model",
            count(c.parameters_full),
            count(c.parameters_pruned),
            f"{100 * saved:+.1f} %" if saved else "0",
        ),
        *(
            [
                (
                    "Visual tokens",
                    "the pruned model's first token does not count reading and ranking them",
                    str(visual[0]),
                    str(visual[1]),
                    f"{100 * (visual[1] / visual[0] - 1):+.0f} %",
                )
            ]
            if visual
            else []
        ),
        (
            "First token",
            "time from image and prompt"
            + (
                f"; the pruned model's counts {milliseconds(c.pruned.shared_ms)} that both share"
                " and the server spent once"
                if c.pruned.shared_ms
                else ""
            ),
            milliseconds(c.full.prefill_ms),
            milliseconds(c.pruned.prefill_ms),
            times(c.speedup_prefill) if changed else "–",
        ),
        (
            "Each further token",
            "mean",
            milliseconds(c.full.per_token_ms),
            milliseconds(c.pruned.per_token_ms),
            times(c.speedup_decode) if changed else "–",
        ),
        (
            "Agreement",
            "same next token, reading the full model's answer",
            "100 %",
            f"{100 * c.agreement:.0f} %",
            "",
        ),
        ("KL divergence", "nats per token; 0 = same predictions", "0", f"{c.kl:.3f}", ""),
    ]
    body = "".join(
        "<tr><th"
        f' scope="row">{esc(a)}{f"<small>{esc(b)}</small>" if b else ""}</th><td>{esc(x)}</td><td>{esc(y)}</td><td>{esc(z)}</td></tr>'
        for a, b, x, y, z in rows
    )
    return (
        f'<p class="verdict">{esc(verdict(c, dropped, layers, visual))}</p>{truth}<table'
        f' class="facts" data-kl="{c.kl:.6f}" data-agreement="{c.agreement:.6f}"><thead><tr><th'
        ' scope="col">Measure</th><th scope="col">Full</th><th scope="col">Pruned</th><th'
        f' scope="col">Change</th></tr></thead><tbody>{body}</tbody></table>'
    )

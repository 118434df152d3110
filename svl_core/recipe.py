"""`Recipe`: how a model is pruned, as one value.

Everything that describes a pruned model is made from its fields or printed from them: the
command's options, a plan file, the presets, the page's settings, the endpoints' arguments, the
link, the code to repeat it, the report, the model card and `svl_plan.json`. A new setting is one
field here and one use where it acts.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from svl_core.errors import InputError
from svl_core.notebook import Shown

RANKING = "which layers are redundant"
CHOICE = "what to drop"
COMPENSATION = "compensation settings"
CALIBRATION = "calibration: what layers are ranked and compensations fitted on"
DETAIL = "visual detail: how closely images are looked at"
READING = "what the pruned model reads"

AUTO, THIS, DEMO, OWN = "auto", "this", "demo", "own"
"""Calibration sets by name; anything else is a file or a folder. OWN: a page visitor's files."""

THINNING = ("visual_share", "visual_tokens", "visual_from", "visual_layers")
"""Fields of which visual tokens the pruned model's layers read."""

MANUAL = "manual"
"""What a plan calls the criterion of layers that were chosen by hand; no recipe ranks by it."""

FULL, BALANCED, QUICK = "full", "balanced", "quick"
"""How closely pictures are looked at: as the processor does by itself, or with fewer visual tokens;
`AUTO` is what keeps one pass short.
"""

LAYER, HALF = GRANULARITIES = ("layer", "half")
"""What goes as one: a whole layer, or half of it, its attention or its MLP."""

ATTENTION, MLP = HALVES = ("attention", "mlp")
"""The halves of a layer, in the order in which the residual stream meets them."""

TARGETS = ("mlp", "attention")
TOKEN_SETS = ("important", "all", "visual", "textual", "last")
TEXT_ENDS = ("scored", "sink-aware")
GAP_ROWS = ("tokens", "samples")
GAP_SPANS = ("run", "layer")


@dataclass(frozen=True)
class Option:
    """What a field of `Recipe` accepts, and how it is explained.

    name: the field's.
    label: what a person calls it.
    help: one line for `--help`, the endpoints' descriptions and the page.
    group: one of the headings above.
    kind: bool, int, float, str or tuple.
    default: the value of a recipe that says nothing of it.
    nullable: whether None is accepted.
    low, high: least and largest number.
    above: whether `low` itself is excluded.
    typed_low: the least that a person may type, where the library takes less.
    choices: the words that are accepted, () for any.
    words: words accepted in the place of a number.
    flag, metavar: of the command; the flag is the field's name by default.
    inverted: the flag's presence means False.
    """

    name: str
    label: str
    help: str
    group: str
    kind: type
    default: Any
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    above: bool = False
    typed_low: float | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    flag: str = ""
    metavar: str | None = None
    inverted: bool = False

    @property
    def option(self) -> str:
        """The command's option, such as "--top-p"."""
        return "--" + (self.flag or self.name.replace("_", "-"))

    @property
    def expected(self) -> str:
        """What is accepted, for the sentence that refuses something else."""
        if self.kind is tuple:
            if self.choices:
                return f"one or more of {', '.join(self.choices)}"
            return "whole numbers and ranges such as 3,5-7"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a name"
        others = [repr(word) for word in self.words] + (["none"] if self.nullable else [])
        return f"{self._range}, or {' or '.join(others)}" if others else self._range

    @property
    def _range(self) -> str:
        """The numbers that are accepted."""
        said = "a whole number" if self.kind is int else "a number"
        low = self.low if self.typed_low is None else self.typed_low
        if low is None:
            return said
        if self.above:
            said += f" above {low:g}"
            return said if self.high is None else f"{said} and at most {self.high:g}"
        said += f" from {low:g}"
        return said if self.high is None else f"{said} to {self.high:,.0f}"

    def checked(self, value: Any) -> Any:
        """The value in the field's own type. Raises InputError for one that is not accepted."""
        if value is None and self.nullable or isinstance(value, str) and value in self.words:
            return value
        try:
            converted = self._converted(value)
        except (TypeError, ValueError, OverflowError):
            raise self.refusal(value) from None
        if self.kind in (int, float) and self._out_of_range(converted):
            raise self.refusal(value)
        if self.kind is str and self.choices and converted not in self.choices:
            raise self.refusal(value)
        return converted

    def refusal(self, value: Any) -> InputError:
        """The sentence for a value that is not accepted."""
        shown = repr(list(value) if isinstance(value, tuple) else value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        label = self.label.removeprefix("the ")
        article = "an" if label[0] in "aeiou" else "a"
        found = f"{article} {label} of {shown}"
        if self.kind in (str, tuple):
            found = f"the {label} {shown}"
        return InputError(f"Found {found}; expected {self.expected}; change it.")

    def _converted(self, value: Any) -> Any:
        if self.kind is tuple:
            return self._converted_tuple(value)
        if self.kind is bool:
            if isinstance(value, bool) or value in (0, 1):
                return bool(value)
            raise ValueError
        if self.kind is str:
            if not isinstance(value, str):
                raise TypeError
            return value
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
        if not math.isfinite(number) or self.kind is int and number != int(number):
            raise ValueError
        return self.kind(value)

    def _converted_tuple(self, value: Any) -> tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError
        parts = tuple(value)
        if self.choices:
            if not parts or set(parts) - set(self.choices):
                raise ValueError
            return tuple(choice for choice in self.choices if choice in parts)
        if any(isinstance(part, bool | str) or part != int(part) for part in parts):
            raise ValueError
        return tuple(sorted(int(part) for part in parts))

    def _out_of_range(self, number: float) -> bool:
        if self.high is not None and number > self.high:
            return True
        if self.low is None:
            return False
        return number <= self.low if self.above else number < self.low

    def read(self, text: str) -> Any:
        """The value that a text means, not yet checked. Raises ValueError for a text that means
        nothing of the field's type.
        """
        if self.nullable and text in ("", "none"):
            return None
        if self.kind is str or text in self.words:
            return text
        if self.kind is bool:
            if text not in ("0", "1"):
                raise ValueError
            return text == "1"
        if self.kind is tuple:
            return words_in(text) if self.choices else numbers_in(text)
        if len(text) > 40 or not text.isascii() or "_" in text:
            raise ValueError
        return self.kind(text)

    def parsed(self, text: str) -> Any:
        """The value that a text means, as a link or a command line holds it. Raises InputError."""
        try:
            value = self.read(text)
        except ValueError:
            raise self.refusal(text) from None
        value = self.checked(value)
        if self.typed_low is not None and not isinstance(value, str) and value < self.typed_low:
            raise self.refusal(value)
        return value

    @property
    def annotation(self) -> Any:
        """The field's type as an endpoint shows it: words as an enumeration."""
        base: Any = _one_of(self.choices) if self.choices else self.kind
        if self.kind is tuple:
            members: Any = _one_of(self.choices) if self.choices else int
            base = list[members]
        if self.words:
            base = base | _one_of(self.words)
        return base | None if self.nullable else base


def _one_of(words: tuple[str, ...]) -> Any:
    """The type of exactly these words."""
    literal: Any = Literal
    return literal[words]


def words_in(text: str) -> tuple[str, ...]:
    """ "mlp, attention" -> ("mlp", "attention")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers_in(text: str) -> tuple[int, ...]:
    """ "3,5-7" -> (3, 5, 6, 7). Raises ValueError."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not _is_count(first) or dash and not _is_count(last):
            raise ValueError(f"no whole number in {part!r}")
        numbers += range(int(first), int(last or first) + 1)
        if dash and int(last) < int(first):
            raise ValueError(f"no range: {part!r}")
    return tuple(numbers)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _field(default: Any, label: str, help: str, group: str, **more: Any) -> Any:
    """A field of `Recipe` with what `Option` says of it."""
    return field(default=default, metadata={"label": label, "help": help, "group": group, **more})


@dataclass(frozen=True, repr=False)
class Recipe(Shown):
    """How layers are ranked, how many or which go, what is fitted, and on which samples.

    Every field is checked when a recipe is made; `OPTIONS` says what each accepts. Names of
    criteria and compensations are checked where their registries are. Raises InputError.
    """

    criterion: str = _field(
        "svl",
        "criterion",
        "its name; `svl models` lists them",
        RANKING,
        metavar="NAME",
    )
    top_p: float = _field(
        0.5,
        "top-p",
        "share of tokens that count as important",
        RANKING,
        low=0,
        above=True,
        high=1,
        metavar="P",
    )
    top_p_mode: str = _field(
        "fraction",
        "top-p mode",
        "best P of the tokens, or the fewest that hold P of the score",
        RANKING,
        choices=("fraction", "mass"),
    )
    text_self: str = _field(
        "received",
        "text attention",
        "text-to-text part of a text token's importance: attention 'received' or 'given'",
        RANKING,
        choices=("received", "given"),
    )
    causal_correction: bool = _field(
        False,
        "causal correction",
        "divide attention by the number of queries that can see a key",
        RANKING,
    )
    rounds: int | None = _field(
        None,
        "number of rounds",
        "greedy criteria: re-score after each of N drops, then rank the rest as it stands",
        RANKING,
        low=1,
        metavar="N",
    )
    protect_ends: bool = _field(
        True,
        "protection of both ends",
        "let the first and the last layer be dropped too",
        RANKING,
        flag="unprotect-ends",
        inverted=True,
    )
    seed: int = _field(
        0,
        "seed",
        "seed of random draws: criterion 'random', calibration, questions",
        RANKING,
        low=0,
    )
    text_ends: str = _field(
        "scored",
        "text ends",
        "first and last text token: 'scored' as all others, or 'sink-aware': the first, on which"
        " attention rests whatever it says, never counts, the last always does",
        RANKING,
        choices=TEXT_ENDS,
    )
    drop: int | None = _field(
        None,
        "number of layers to drop",
        "number of layers to drop, most redundant first",
        CHOICE,
        metavar="N",
    )
    layers: tuple[int, ...] | None = _field(
        None,
        "layers",
        "drop these layers instead (0-based, such as 3,5-7)",
        CHOICE,
        metavar="LIST",
    )
    granularity: str = _field(
        LAYER,
        "granularity",
        "what is ranked and dropped: each 'layer' as a whole, or each 'half' of one, its attention"
        " or its MLP; the number to drop counts these",
        CHOICE,
        choices=GRANULARITIES,
    )
    drop_attention: tuple[int, ...] | None = _field(
        None,
        "layers without attention",
        "skip the attention alone of these layers (0-based, such as 3,5-7)",
        CHOICE,
        metavar="LIST",
    )
    drop_mlp: tuple[int, ...] | None = _field(
        None,
        "layers without MLP",
        "skip the MLP alone of these layers (0-based, such as 3,5-7)",
        CHOICE,
        metavar="LIST",
    )
    preset: str | None = _field(
        None,
        "preset",
        "a whole recipe by name: as-published or best; options beside it change it",
        CHOICE,
        metavar="NAME",
    )
    compensation: str = _field(
        "none",
        "compensation",
        "its name; `svl models` lists them",
        CHOICE,
        metavar="NAME",
    )
    rank: int | str = _field(
        4,
        "rank",
        "rank k of the compensated subspace, or 'auto': of lowest KL on half of the calibration"
        " set, fitted on the other half",
        COMPENSATION,
        low=0,
        typed_low=1,
        words=(AUTO,),
        metavar="K",
    )
    energy: float | None = _field(
        None,
        "energy share",
        "choose each run's rank as the fewest directions that hold this share of its gap's energy,"
        " instead of --rank",
        COMPENSATION,
        low=0,
        above=True,
        high=1,
        metavar="SHARE",
    )
    strength: float = _field(
        1.0,
        "strength",
        "1 = as published",
        COMPENSATION,
        low=0,
        high=100,
    )
    targets: tuple[str, ...] = _field(
        ("mlp",),
        "targets",
        "projections to edit: mlp, attention, or mlp,attention",
        COMPENSATION,
        choices=TARGETS,
        metavar="LIST",
    )
    ridge: float | None = _field(
        None,
        "ridge",
        "least squares, bridge, refit: pull toward no edit, relative to the mean diagonal",
        COMPENSATION,
        low=0,
        metavar="R",
    )
    answer_weight: float = _field(
        20.0,
        "answer weight",
        "refit: what an answer's positions count beside one position each",
        COMPENSATION,
        low=0,
        metavar="W",
    )
    weighted: bool = _field(
        False,
        "weighting",
        "least squares: weight tokens by their importance",
        COMPENSATION,
    )
    tokens: str = _field(
        "important",
        "token set",
        "tokens to fit on",
        COMPENSATION,
        choices=TOKEN_SETS,
    )
    gap_rows: str = _field(
        "tokens",
        "rows of the gap",
        "SCP: the feature difference has a row for each of the 'tokens', or for each of the"
        " 'samples' the mean over its tokens",
        COMPENSATION,
        choices=GAP_ROWS,
    )
    gap_centred: bool = _field(
        False,
        "centring of the gap",
        "SCP: take the mean row out of the feature difference",
        COMPENSATION,
    )
    gap_span: str = _field(
        "run",
        "span of the gap",
        "SCP: what the feature difference goes across, the whole dropped 'run' or its first"
        " 'layer' alone",
        COMPENSATION,
        choices=GAP_SPANS,
    )
    calibration: str = _field(
        AUTO,
        "calibration set",
        "'demo' (bundled scenes), 'this' (the sample asked about), a FILE.jsonl or a folder of"
        " images",
        CALIBRATION,
        metavar="SET",
    )
    calibration_size: int = _field(
        16,
        "calibration size",
        "samples used of it",
        CALIBRATION,
        low=1,
        high=100_000,
        metavar="N",
    )
    detail: str = _field(
        FULL,
        "visual detail",
        "full, or with fewer visual tokens balanced or quick; auto: without a GPU what keeps one"
        " pass within a few seconds",
        DETAIL,
        choices=(AUTO, FULL, BALANCED, QUICK),
    )
    max_visual_tokens: int | None = _field(
        None,
        "limit of visual tokens",
        "the highest detail up to --detail that keeps within N visual tokens",
        DETAIL,
        low=1,
        metavar="N",
    )
    visual_share: float = _field(
        1.0,
        "visual share",
        "the pruned model sees only this share of the visual tokens, by --visual-tokens",
        READING,
        low=0,
        above=True,
        high=1,
        metavar="P",
    )
    visual_tokens: str = _field(
        "tis",
        "token selector",
        "which visual tokens stay, or how layers skip them, by name; `svl models` lists them",
        READING,
        metavar="NAME",
    )
    visual_from: int = _field(
        0,
        "layer of leaving",
        "layer (0-based) from which on visual tokens are gone or skipped; 0: gone at the input",
        READING,
        low=0,
        metavar="N",
    )
    visual_layers: tuple[int, ...] | None = _field(
        None,
        "skipping layers",
        "only these layers skip visual tokens (0-based, such as 3,5-7)",
        READING,
        metavar="LIST",
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.checked(getattr(self, name)))

    @classmethod
    def of(cls, **values: Any) -> Self:
        """A recipe of the given fields. Raises InputError for a name that is none of them."""
        cls._check_names(values)
        return cls(**values)

    @classmethod
    def _check_names(cls, values: Mapping[str, Any]) -> None:
        names = [known.name for known in fields(cls)]
        unknown = [name for name in values if name not in names]
        if unknown:
            raise InputError(
                f"Found the setting {unknown[0]!r}; expected one of {', '.join(names)}; correct it."
            )

    def brief(self) -> dict[str, Any]:
        return self.unusual()

    @property
    def chosen(self) -> bool:
        """Whether it names what goes, so that nothing is ranked for it."""
        named = (self.layers, self.drop_attention, self.drop_mlp)
        return any(layers is not None for layers in named)

    @property
    def drops(self) -> bool:
        """Whether it says what goes, by name or by number, were it nothing."""
        return self.chosen or self.drop is not None

    @property
    def fits(self) -> bool:
        """Whether something is fitted on a calibration set."""
        return self.compensation != "none"

    def changed(self, **values: Any) -> Self:
        """The same recipe with other values of some fields. Raises InputError."""
        self._check_names(values)
        return dataclasses.replace(self, **values)

    def values(self) -> dict[str, Any]:
        """Every field's value by its name."""
        return {name: getattr(self, name) for name in OPTIONS}

    def unusual(self, usual: Recipe | None = None) -> dict[str, Any]:
        """The fields that differ from `usual` (default: the default recipe), by name."""
        usual = usual or DEFAULT
        return {k: v for k, v in self.values().items() if v != getattr(usual, k)}

    def to_json(self) -> dict[str, Any]:
        """Every field in JSON's types; read back by `from_json`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.values().items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote; fields that are left out have their defaults.

        Raises InputError for an unknown field or a value that is not accepted.
        """
        return cls.of(**dict(data))


def _options() -> dict[str, Option]:
    """`Option` of each field, in order, from the field's annotation, default and metadata."""
    hints = typing.get_type_hints(Recipe)
    options = {}
    for setting in fields(Recipe):
        kind = hints[setting.name]
        members: tuple[Any, ...] = ()
        if isinstance(kind, types.UnionType):
            members = typing.get_args(kind)
            kind = next(member for member in members if member is not types.NoneType)
        options[setting.name] = Option(
            name=setting.name,
            kind=typing.get_origin(kind) or kind,
            default=setting.default,
            nullable=types.NoneType in members,
            **setting.metadata,
        )
    return options


OPTIONS: Mapping[str, Option] = types.MappingProxyType(_options())
"""What each field of `Recipe` accepts, by its name."""

DEFAULT = Recipe()

UNTHINNED: Mapping[str, Any] = types.MappingProxyType(
    {name: OPTIONS[name].default for name in THINNING}
)
"""The fields of visual tokens where each layer reads them all."""

OF_A_ROW = (
    "criterion",
    "compensation",
    "drop",
    "layers",
    "granularity",
    "drop_attention",
    "drop_mlp",
    "preset",
    "calibration",
    "calibration_size",
    "rounds",
    "detail",
    "max_visual_tokens",
    *THINNING,
)
"""Fields in which the rows of a sweep differ, that its samples tell, or that do nothing in it."""

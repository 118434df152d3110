"""The page's controls as one validated value."""

from __future__ import annotations

from dataclasses import dataclass, fields

from svl_core.errors import InputError
from svl_core.recipe import OPTIONS

# The fields of `Settings` that make a pruned model: which layers go, and what closes the gap,
# fitted on which samples.
RECIPE = (
    "criterion",
    "protect_ends",
    "top_p",
    "mode",
    "causal_correction",
    "text_self",
    "calibration",
    "calibration_size",
    "compensation",
    "rank",
    "strength",
    "attention_target",
    "visual_share",
)


@dataclass(frozen=True)
class Settings:
    """What the controls say; the order of the fields is the order in which the page hands them
    over.
    """

    all_layers: bool = True  # importance averaged over layers, else of `layer` alone
    layer: int = 0
    opacity: float = 0.55
    top_p: float = 0.5
    mode: str = "fraction"
    causal_correction: bool = False
    text_self: str = "received"
    token_set: str = "important"  # of the similarity heatmap
    criterion: str = "svl"
    protect_ends: bool = True
    compensation: str = "scp"
    rank: int = 4
    strength: float = 1.0
    attention_target: bool = False
    max_new_tokens: int = 64
    visual_share: float = 1.0  # of the visual tokens, that the pruned model reads
    calibration: str = "auto"  # one of `calibration.SOURCES`
    calibration_size: int = 32  # samples of the bundled set
    own: str = ""  # digest of the visitor's own set, "" without one

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise InputError(
                f"Found a top-p of {self.top_p}; expected a share above 0 and at most 1; move the"
                " top-p slider."
            )
        if not 0 < self.visual_share <= 1:
            raise InputError(
                f"Found a share of {self.visual_share} of the visual tokens; expected one above 0"
                " and at most 1; move its slider."
            )
        if not 1 <= self.calibration_size <= 4096:
            raise InputError(
                f"Found {self.calibration_size} samples of the bundled set; expected 1 to 4096;"
                " move the slider."
            )
        if not 1 <= self.max_new_tokens <= 512:
            raise InputError(
                f"Found an answer length of {self.max_new_tokens} tokens; expected 1 to 512; change"
                " the answer length."
            )

    @classmethod
    def of(cls, values) -> Settings:
        """From the controls' values in field order; numbers arrive as the browser sends them."""
        made = {}
        for field, value in zip(fields(cls), values, strict=True):
            kind = type(field.default)
            made[field.name] = (
                field.default if value is None else value if kind is str else kind(value)
            )
        return cls(**made)

    seed = 7  # of the bundled set

    # Recipe's names of what the page calls otherwise
    @property
    def top_p_mode(self) -> str:
        return self.mode

    @property
    def targets(self) -> tuple[str, ...]:
        return ("mlp", "attention") if self.attention_target else ("mlp",)

    @property
    def fits(self) -> bool:
        return self.compensation != "none"

    def __getattr__(self, name: str):
        if name in OPTIONS:
            return OPTIONS[name].default
        raise AttributeError(name)

    @property
    def key_importance(self) -> tuple:
        return self.causal_correction, self.text_self

    @property
    def key_tokens(self) -> tuple:
        return *self.key_importance, self.top_p, self.mode

    @property
    def key_prune(self) -> tuple:
        return (
            *self.key_tokens,
            self.compensation,
            self.rank,
            self.strength,
            self.attention_target,
            self.visual_share,
            *self.key_fit,
        )

    @property
    def key_fit(self) -> tuple:
        return self.calibration, self.calibration_size, self.own

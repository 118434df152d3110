"""The page's controls as one validated value."""

from __future__ import annotations

from dataclasses import dataclass, fields

from svl_core.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What the controls say; the order of the fields is the order in which the page hands them over."""

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

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise InputError(f"Found a top-p of {self.top_p}; expected a share above 0 and at most 1; move the top-p slider.")
        if not 1 <= self.max_new_tokens <= 512:
            raise InputError(f"Found an answer length of {self.max_new_tokens} tokens; expected 1 to 512; change the answer length.")

    @classmethod
    def of(cls, values) -> Settings:
        """From the controls' values in field order; numbers arrive as the browser sends them."""
        made = {}
        for field, value in zip(fields(cls), values, strict=True):
            kind = type(field.default)
            made[field.name] = field.default if value is None else value if kind is str else kind(value)
        return cls(**made)

    @property
    def key_importance(self) -> tuple:
        return self.causal_correction, self.text_self

    @property
    def key_tokens(self) -> tuple:
        return *self.key_importance, self.top_p, self.mode

    @property
    def key_prune(self) -> tuple:
        return *self.key_tokens, self.compensation, self.rank, self.strength, self.attention_target

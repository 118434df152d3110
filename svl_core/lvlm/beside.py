"""Names of attention functions of ours that run beside one of transformers' own."""

from __future__ import annotations


class Beside(str):
    """The name of an attention function that does what another one does, and looks on.

    Where a model asks for its attention setting by name, it equals the other's name too, so that
    the model goes the way that it goes without ours: some choose by it whether they mask the keys
    that an indexer left out, or leave that to the function. Looked up in a registry it is itself.

    inner: the other's name.
    """

    inner: str

    def __new__(cls, name: str, inner: str) -> Beside:
        made = super().__new__(cls, name)
        made.inner = inner
        return made

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or str.__eq__(self.inner, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __reduce__(self) -> tuple:
        return Beside, (str(self), self.inner)

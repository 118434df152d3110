"""The project's exceptions.

A page shows an `InputError`'s sentence as it is; the command prints it and exits with 2.
"""


class SVLError(Exception):
    """Base class of every error that the project raises on purpose."""


class InputError(SVLError, ValueError):
    """The user's input is wrong.

    The message is one sentence: what was found, what was expected, what to do.
    """


class Unreachable(InputError):
    """What was asked for is not on this machine, and the Hub, which may have it, cannot be asked.

    brief: the same in fewer words, for a page.
    """

    def __init__(self, sentence: str, name: str):
        super().__init__(sentence)
        self.brief = (
            f"{name.split('/')[-1]} is not on this machine, and the Hub cannot be reached; choose"
            " another model."
        )


class Cancelled(SVLError):
    """Work was stopped through its cancel event; nothing was changed. replaced: by other work of
    its kind, which follows.
    """

    replaced = False

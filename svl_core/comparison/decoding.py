"""The names of `svl_core.lvlm.decoding`, where they live so that criteria which run the model can use them too."""

from svl_core.lvlm.decoding import Decoding, GROWING, IMAGE_TOKEN_NAMES, greedy, image_token_ids  # noqa: F401

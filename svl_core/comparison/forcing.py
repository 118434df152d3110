"""The names of `svl_core.lvlm.forcing`, where they live so that criteria which run the model can use them too."""

from svl_core.lvlm.forcing import forced_logits, iterate_forced, kl_per_token, token_losses  # noqa: F401

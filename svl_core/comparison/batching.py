"""The names of `svl_core.lvlm.batching`, where they live so that criteria which run the model can use them too."""

from svl_core.lvlm.batching import batches, collate, shape_key  # noqa: F401

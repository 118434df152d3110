"""The catalogue: complete, consistent with the family table, and the bundled model counted from its
own files.
"""

from svl_core.lvlm import catalogue as module
from svl_core.lvlm.catalogue import ENTRIES, catalogue
from svl_core.lvlm.families import FAMILIES


def test_entries_are_consistent():
    names = {row.name for row in FAMILIES}
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert (
            entry.family in names
            and entry.id.count("/") == 1
            and entry.layers >= 16
            and entry.licence
            and entry.good_for
        )
        assert abs(entry.memory_gb * 1e9 - 2 * entry.parameters) < 1e7


def test_the_bundled_model_is_counted_from_its_files(tiny, tmp_path, monkeypatch):
    tiny.save(tmp_path / "demo")
    monkeypatch.setattr(module, "DEMO_PLACES", (tmp_path / "absent", tmp_path / "demo"))
    first = catalogue()[0]
    assert first.id == "demo" and first.parameters == tiny.num_parameters and first.layers == 6
    monkeypatch.setattr(module, "DEMO_PLACES", ())
    assert catalogue() == ENTRIES

from pabtune.records.sites import KINDS, Site


def test_names_are_unique_across_transformers() -> None:
    first = Site(path="blocks.0.attn", kind="spatial", layer=0)
    second = Site(transformer="transformer_2", path="blocks.0.attn", kind="spatial", layer=0)
    assert first.name == "transformer.blocks.0.attn" != second.name
    assert "spatial" in KINDS

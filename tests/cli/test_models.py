def test_models_lists_names_and_transformers(pabtune) -> None:
    listed = pabtune("models", "--json").document()
    assert "shapes" in listed["models"]
    assert listed["transformers"]["STDiT3Transformer3DModel"] == ["cross", "mlp", "spatial", "temporal"]
    assert "STDiT3Transformer3DModel: cross, mlp, spatial, temporal" in pabtune("models").stdout

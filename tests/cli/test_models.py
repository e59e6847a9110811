import pytest

from tests.pipelines import wan


def test_models_lists_names_and_transformers(pabtune) -> None:
    listed = pabtune("models", "--json").document()
    assert "shapes" in listed["models"]
    assert listed["transformers"]["STDiT3Transformer3DModel"] == ["cross", "mlp", "spatial", "temporal"]
    assert "STDiT3Transformer3DModel: cross, mlp, spatial, temporal" in pabtune("models").stdout


@pytest.mark.filterwarnings("ignore")
def test_the_sites_of_a_folder_are_told_without_its_weights(pabtune, tmp_path) -> None:
    wan.wan22().save_pretrained(tmp_path)
    for weights in tmp_path.glob("transformer*/*.safetensors"):
        weights.unlink()
    told = pabtune("models", "--sites", str(tmp_path))
    assert told.returncode == 0, told.stderr
    assert "transformer_2: WanTransformer3DModel, 6 sites (known class)" in told.stdout
    assert "full     layer   1  blocks.1.attn1, skipped with it: norm1" in told.stdout
    document = pabtune("models", "--sites", str(tmp_path), "--json").document()
    assert len(document["transformers"]["transformer"]["sites"]) == 6
    assert pabtune("models", "--sites", "shapes").returncode == 0

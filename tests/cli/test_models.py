import json
import sys

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


@pytest.mark.parametrize(
    "entry",
    [
        ["this", "s"], ["planted", "Network"], ["planted", "found"], ["os", "system"], ["torch.nn", "Linear"],
        ["diffusers", "_LazyModule"], ["", ""], ["diffusers"], [1, 2], {"a": 1}, "diffusers", None,
    ],
)  # fmt: skip
def test_a_models_index_imports_nothing(pabtune, tmp_path, monkeypatch, entry) -> None:
    """Fault 18: it comes with the model, and could import, and so run, any module that is installed."""
    (tmp_path / "planted.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    index = {"_class_name": "WanPipeline", "transformer": entry}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    before = set(sys.modules)
    assert str(tmp_path) in pabtune("models", "--sites", str(tmp_path)).refusal()
    assert not {"this", "planted"} & (set(sys.modules) - before)


@pytest.mark.parametrize("config", ['{"num_layers": "many"}', '{"num_layers": -1e99}', "[1]", "[" * 1000, "", "{}"])
def test_a_configuration_that_no_network_can_have_is_refused(pabtune, tmp_path, config) -> None:
    """Fault 19: a model's index and configurations are JSON that others wrote."""
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(config)
    done = pabtune("models", "--sites", str(tmp_path))
    assert config == "{}" or "cannot load" in done.refusal()

import json

import pytest
import torch

import pabtune
import pabtune.models
from pabtune.models.registry import MODEL_LINES, SHAPES_FOLDER, build_on_meta, load_pipeline
from pabtune.records.errors import ModelError
from tests.conftest import draw


def test_the_embedded_model_loads_and_is_small() -> None:
    pipeline = load_pipeline("shapes")
    assert type(pipeline).__name__ == "ShapesPipeline"
    weights = [file for file in SHAPES_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in weights) < 16 * 2**20
    assert {file.suffix for file in weights} == {".json", ".safetensors"}


def test_a_saved_pipeline_loads_and_draws_the_same(pipeline, tmp_path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    again = load_pipeline(str(tmp_path / "model"), torch.float32)
    assert (draw(again) == draw(pipeline)).all()


def test_wrong_models_are_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="unknown model 'shape'; known models: shapes, latte, open-sora-1.2"):
        load_pipeline("shape")
    with pytest.raises(ModelError, match="no model_index.json"):
        load_pipeline(str(tmp_path))
    (tmp_path / "modular_model_index.json").write_text("{}")  # fault 11
    with pytest.raises(ModelError, match="a ModularPipeline of diffusers, which pabtune does not support"):
        load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="not a valid JSON file"):
        load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ShapesPipeline", "scheduler": ["a", "b"]}))
    with pytest.raises(ModelError, match="cannot load"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "class_name", "parameters"),
    [
        ("open-sora-1.2", "STDiT3Transformer3DModel", 1_207_643_972),
        ("open-sora-plan-1.1", "LatteT2VTransformer3DModel", 1_058_000_000),
        ("latte", "LatteTransformer3DModel", 1_057_000_000),
        ("shapes", "STDiT3Transformer3DModel", 1_000_000),
    ],
)
def test_models_are_built_without_weights(model, class_name, parameters) -> None:
    transformer = pabtune.models.build_on_meta(model)
    assert type(transformer).__name__ == class_name
    assert all(parameter.is_meta for parameter in transformer.parameters())
    assert sum(each.numel() for each in transformer.parameters()) == pytest.approx(parameters, rel=0.05)
    assert model in MODEL_LINES
    with pytest.raises(ModelError, match="unknown model"):
        build_on_meta("sora")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["open-sora-1.2", "open-sora-plan-1.1", "latte"])
def test_without_a_network_a_published_model_is_refused_in_one_line(model, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=rf"cannot load '{model}': [^\n]+$"):
        load_pipeline(model)

import json

import pytest
import torch

from pabtune.models.registry import MODEL_LINES, REGISTERED, load_pipeline
from pabtune.records.errors import ModelError
from tests.conftest import draw


def test_the_embedded_model_loads_and_is_small() -> None:
    pipeline = load_pipeline("shapes")
    assert type(pipeline).__name__ == "ShapesPipeline"
    weights = [file for file in REGISTERED["shapes"].rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in weights) < 16 * 2**20
    assert {file.suffix for file in weights} == {".json", ".safetensors"}
    assert set(MODEL_LINES) == set(REGISTERED)


def test_a_saved_pipeline_loads_and_draws_the_same(pipeline, tmp_path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    again = load_pipeline(str(tmp_path / "model"), torch.float32)
    assert (draw(again) == draw(pipeline)).all()


def test_wrong_models_are_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="unknown model 'shape'; registered models: shapes"):
        load_pipeline("shape")
    with pytest.raises(ModelError, match="no model_index.json"):
        load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="not a valid JSON file"):
        load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ShapesPipeline", "scheduler": ["a", "b"]}))
    with pytest.raises(ModelError, match="cannot load"):
        load_pipeline(str(tmp_path))

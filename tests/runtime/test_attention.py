import sys
from types import ModuleType

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from pabtune.records.errors import ModelError
from pabtune.runtime import attention
from pabtune.runtime.attention import attention_in_use, use_attention
from tests.conftest import draw, make_pipeline


@pytest.fixture(autouse=True)
def _restored():
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry.set_active_backend(before)


@pytest.fixture
def installed(monkeypatch) -> None:
    """As if the packages were there."""
    monkeypatch.setattr(attention, "find_spec", lambda package: ModuleType(package))


def test_without_flash_attention_torchs_own_serves(pipeline) -> None:
    before = draw(pipeline)
    assert use_attention(pipeline) == "sdpa"
    assert (draw(pipeline) == before).all()


def test_torchs_own_can_be_asked_for(pipeline, caplog) -> None:
    """A search does, and its errors are one line."""
    assert use_attention(pipeline, "sdpa") == "sdpa"
    assert not caplog.records
    assert attention_in_use() == "sdpa"
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.FLASH)
    assert attention_in_use() == "flash"


@pytest.mark.skipif("flash_attn" in sys.modules, reason="it is installed")
@pytest.mark.parametrize(("asked", "package"), [("flash", "flash_attn"), ("flash3", "flash_attn_interface")])
def test_flash_attention_that_is_missing_is_refused(pipeline, asked, package) -> None:
    with pytest.raises(ModelError, match=f"--attention {asked}: the package {package} is not installed; leave it out"):
        use_attention(pipeline, asked)


@pytest.mark.usefixtures("installed")
def test_a_device_or_precision_that_cannot_is_refused(monkeypatch) -> None:
    pipeline = make_pipeline()
    assert use_attention(pipeline) == "sdpa"
    with pytest.raises(ModelError, match="needs a CUDA device, but the model is on cpu"):
        use_attention(pipeline, "flash")
    on_cuda = torch.nn.Parameter(torch.zeros(1))
    monkeypatch.setattr(type(on_cuda), "device", torch.device("cuda"), raising=False)
    with pytest.raises(ModelError, match="needs --dtype bfloat16 or float16, not float32"):
        use_attention(pipeline, "flash")
    pipeline.transformer.bfloat16()
    with pytest.raises(ModelError, match="--attention flash: Flash Attention backend 'flash' is not usable"):
        use_attention(pipeline, "flash")

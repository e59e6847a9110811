"""Loading of weights that were published outside diffusers, as a `config.json` and a weight file in a repository.

Knows files and repositories; knows nothing of any model.
"""

from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def published_file(source: str | Path, name: str) -> Path:
    """Local path of a published file, downloaded from the hub if the source is not a local folder.

    Args:
        source: folder or hub id.
        name: path of the file inside the source.

    Raises:
        OSError: there is no such file or repository.
    """
    if Path(source).is_dir():
        path = Path(source) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return path
    return Path(hf_hub_download(str(source), name))


def load_published(
    model_class: type[ModelMixin],
    source: str | Path,
    config: dict[str, object],
    dtype: torch.dtype,
    folder: str = "",
    ignored: tuple[str, ...] = (),
) -> ModelMixin:
    """Loads a model with published weights, in evaluation mode.

    Args:
        model_class: class whose parameters have the published names.
        source: folder or hub id.
        config: constructor arguments of the model.
        dtype: precision of the weights.
        folder: subfolder of the source that holds the weights.
        ignored: prefixes of weight names that do not belong to the model.

    Raises:
        OSError: the source has no weight file.
        ValueError: names or shapes of the weights differ from those of the model.
    """
    assert issubclass(model_class, ConfigMixin)
    with torch.device("meta"):
        model = model_class.from_config(config)
    state = {name: value for name, value in load_file(_weights(source, folder)).items() if not name.startswith(ignored)}
    expected = {name: value.shape for name, value in model.state_dict().items()}
    shapes = {name: value.shape for name, value in state.items()}
    if shapes != expected:
        different = [name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name)]
        raise ValueError(
            f"{source}: {len(different)} of {len(expected)} weights do not fit {model_class.__name__}, for example "
            f"{different[0]}: {shapes.get(different[0])} there, {expected.get(different[0])} expected"
        )
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    return model.eval()


def _weights(source: str | Path, folder: str) -> Path:
    for name in WEIGHT_FILES:
        try:
            return published_file(source, f"{folder}/{name}" if folder else name)
        except (FileNotFoundError, EntryNotFoundError):
            continue
    raise FileNotFoundError(f"{Path(source) / folder}: has none of {', '.join(WEIGHT_FILES)}")

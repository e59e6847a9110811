"""Loading weights that were published outside of diffusers: a `config.json` and one file of weights, in a repository.

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


def published_file(place: str | Path, name: str) -> Path:
    """A file of a local folder, or of a repository on the hub.

    Raises:
        OSError: there is no such file or repository.
    """
    if Path(place).is_dir():
        path = Path(place) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return path
    return Path(hf_hub_download(str(place), name))


def load_published(
    model_class: type[ModelMixin],
    place: str | Path,
    config: dict[str, object],
    dtype: torch.dtype,
    folder: str = "",
    ignored: tuple[str, ...] = (),
) -> ModelMixin:
    """A model with the weights of a folder or repository.

    Args:
        model_class: class whose parameters have the published names.
        place: folder or hub id.
        config: of the model.
        dtype: precision of the weights.
        folder: of the weights in that place.
        ignored: beginnings of the names of weights that are not the model's.

    Raises:
        OSError: there are no weights.
        ValueError: names or shapes are others than the model's.
    """
    assert issubclass(model_class, ConfigMixin)
    with torch.device("meta"):
        model = model_class.from_config(config)
    state = {name: value for name, value in load_file(_weights(place, folder)).items() if not name.startswith(ignored)}
    expected = {name: value.shape for name, value in model.state_dict().items()}
    shapes = {name: value.shape for name, value in state.items()}
    if shapes != expected:
        different = [name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name)]
        raise ValueError(
            f"{place}: {len(different)} of {len(expected)} weights do not fit {model_class.__name__}, for example "
            f"{different[0]}: {shapes.get(different[0])} there, {expected.get(different[0])} expected"
        )
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    return model.eval()


def _weights(place: str | Path, folder: str) -> Path:
    for name in WEIGHT_FILES:
        try:
            return published_file(place, f"{folder}/{name}" if folder else name)
        except (FileNotFoundError, EntryNotFoundError):
            continue
    raise FileNotFoundError(f"{Path(place) / folder}: has none of {', '.join(WEIGHT_FILES)}")

"""Which engine's configuration a file holds, by its content."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pabtune.engines.reading import cache_dit, diffusers, sglang
from pabtune.engines.reading.configuration import Configuration
from pabtune.records.errors import PolicyError, first_line
from pabtune.records.files import parse_json, read_text

MOST_CHARACTERS = 2**18
"""No configuration is longer; reading YAML takes about a second for as much."""

READERS: tuple[tuple[Callable[[Any], bool], Callable[[Mapping[str, Any], str], Configuration]], ...] = (
    (sglang.recognizes, sglang.read),
    (diffusers.recognizes, diffusers.read),
    (cache_dit.recognizes, cache_dit.read),
)

OWN_SCHEMAS = "pabtune."


class PlainLoader(yaml.SafeLoader):
    """YAML without references to other parts of a document, a few of which stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuses a reference, and what is nested deeply (see yaml's composer)."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"references (*{event.anchor}) are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002, yaml's own
        """Refuses a key that is no text, or stands twice (see yaml's constructor)."""
        keys = [key.value if key.tag == "tag:yaml.org,2002:str" else None for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if name is None or keys.count(name) > 1:
                what = "is no text" if name is None else "stands twice"
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} {what}", key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """Refuses whole numbers of more than 64 bits (see yaml's constructor)."""
        number = super().construct_yaml_int(node)
        if not -(2**63) <= number < 2**64:
            raise yaml.constructor.ConstructorError(None, None, "a number has more than 64 bits", node.start_mark)
        return int(number)


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_yaml_int)


def read_configuration(path: Path) -> Configuration | None:
    """The configuration of a file; None if it is JSON of pabtune's own, or might be.

    Raises:
        PolicyError: the file cannot be read, is of no known form, or says what its engine or pabtune refuses.
    """
    text = read_text(path, PolicyError)
    if text.lstrip().startswith("{") and not _is_flow_style(text):
        document = parse_json(text, str(path), PolicyError)
        return None if _may_be_own(document) else _of_document(document, path)
    if len(text) > MOST_CHARACTERS:
        raise PolicyError(f"{path}: {_unknown(f'longer than {MOST_CHARACTERS} characters')}")
    if sglang.recognizes_text(text):
        return sglang.read_text(text, path.name)
    return _of_document(_yaml(text, path), path)


def _is_flow_style(text: str) -> bool:
    """Whether a text is YAML in braces, with keys that JSON would quote."""
    return len(text) <= MOST_CHARACTERS and re.match(r"\s*\{\s*[A-Za-z_]", text) is not None


def _may_be_own(document: Any) -> bool:
    """Whether a document says that it is pabtune's, or is a policy whose schema is missing."""
    is_own = str(document.get("schema", "")).startswith(OWN_SCHEMAS) if isinstance(document, dict) else False
    return is_own or (isinstance(document, dict) and {"name", "rules"} <= document.keys())


def _of_document(document: Any, path: Path) -> Configuration:
    """The configuration of a document of YAML or JSON."""
    for recognizes, read in READERS:
        if recognizes(document):
            return read(document, path.name)
    what = (
        f"keys {', '.join(map(str, list(document)[:5]))}" if isinstance(document, Mapping) else type(document).__name__
    )
    raise PolicyError(f"{path}: {_unknown(what)}")


def _unknown(what: str) -> str:
    return (
        f"no policy, and of no form that is known ({what}); known besides policies: cache-dit's YAML (cache_config:), "
        "SGLang's SGLANG_CACHE_DIT_… variables or cache_dit_params as JSON, a cache of diffusers as JSON "
        '("_class_name": "MagCacheConfig", …)'
    )


def _yaml(text: str, path: Path) -> Any:
    """A document of YAML."""
    try:
        return yaml.load(text, PlainLoader)  # noqa: S506, a safe loader
    except RecursionError as error:
        raise PolicyError(f"{path}: broken YAML: nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PolicyError(f"{path}: broken YAML in line {line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise PolicyError(f"{path}: broken YAML: {first_line(error)}") from error

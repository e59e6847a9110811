from pabtune.records.policies import MadeFor
from pabtune.tuning import references as module
from pabtune.tuning.generation import Settings
from pabtune.tuning.references import References
from tests.conftest import PROMPTS

SETTINGS = Settings(steps=2)


def test_videos_are_made_once_and_survive(pipeline, tmp_path, monkeypatch) -> None:
    made = []
    original = module.generate
    monkeypatch.setattr(module, "generate", lambda *args: made.append(1) or original(*args))
    first = References(tmp_path, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:2])
    again = References(tmp_path, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:2])
    assert len(made) == 1
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    References(tmp_path, pipeline, SETTINGS, MadeFor(steps=3)).videos(PROMPTS[:2])
    assert len(made) == 2


def test_a_broken_file_is_made_again(pipeline, tmp_path) -> None:
    references = References(tmp_path, pipeline, SETTINGS, MadeFor())
    first = references.videos(PROMPTS[:1])
    for file in tmp_path.iterdir():
        file.write_bytes(b"half")
    assert (references.videos(PROMPTS[:1])[0] == first[0]).all()

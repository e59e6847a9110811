"""diffusers itself loads what is exported for it: the same steps compute, and the same video comes out, run after run."""

import pytest

from pabtune.engines.engine import ENGINES
from pabtune.engines.exports import export
from pabtune.engines.plan import Facts
from tests.engines.running import (
    BOUNDARY,
    ROUNDING,
    build,
    count_last_blocks,
    draw,
    drawn_here,
    held,
    relative,
    write,
)  # fmt: skip
from tests.pipelines.cases import cases

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [
    "wan-2.1", "wan-2.2", "hunyuan-true-cfg", "hunyuan-distilled", "cogvideox-ddim", "ltx", "mochi", "allegro", "hunyuan-1.5",
    "skyreels-v2",
]  # fmt: skip
TWO_CALLS = ("wan-2.1", "wan-2.2", "hunyuan-true-cfg", "hunyuan-1.5", "skyreels-v2")


def test_the_table_has_what_is_run() -> None:
    models = {type(build(name).transformer).__name__ for name in NAMES}
    assert models == set(ENGINES["diffusers"].models)


@pytest.mark.parametrize("name", cases(["wan-2.1", "wan-2.2", "hunyuan-true-cfg", "cogvideox-ddim", "allegro"], NAMES))
def test_a_held_stack(name, tmp_path, monkeypatch) -> None:
    policy = held(name, without_the_first=False)
    exported = export(policy, "diffusers", Facts(boundary=BOUNDARY))
    assert exported.losses == ()
    expected = drawn_here(name, policy)
    assert relative(draw(build(name), name), expected) > 1e-3
    pipeline = build(name)
    write(exported, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(exported.use, {"pipe": pipeline})  # noqa: S102, what users are told to paste
    computed = count_last_blocks(pipeline)
    calls = 2 if name in TWO_CALLS else 1
    for runs in (1, 2):
        assert relative(draw(pipeline, name), expected) < ROUNDING
        assert len(computed) == runs * calls * sum(len(mask.computed_steps) for mask in exported.masks)
    assert len({*computed}) == len(exported.masks)

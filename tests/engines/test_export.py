"""What stands above a file for people."""

import ast

import yaml

from pabtune.engines.exports import export
from pabtune.engines.plan import Facts
from tests.engines.policies import BEHIND_THE_FIRST, held, made_for


def test_the_header_tells_what_was_measured() -> None:
    evidence = {
        "speedup": {"measured": 1.5, "device": "cpu"}, "fidelity": {"psnr_db": 31.2}, "verdict": "accept", "budget": "b>=-1"
    }  # fmt: skip
    made = export(held(BEHIND_THE_FIRST, evidence=evidence), "cache-dit")
    assert "# measured in pabtune: speed 1.50x on cpu, PSNR 31.20 dB, verdict accept on b>=-1\n" in made.text
    assert "# for cache-dit 1.5.3 (run by pabtune's authors)" in made.text
    other = export(held(BEHIND_THE_FIRST), "stable-diffusion.cpp").text
    assert "# nothing of it was measured\n" in other
    assert "(read, not run, by pabtune's authors)" in other


def test_names_stay_in_their_comments() -> None:
    """A name with a line break would have put settings, or code, into the file."""
    evil = "x\nimport os\nSGLANG_CACHE_DIT_ENABLED=false\n"
    changes = {
        "name": evil,
        "made_for": made_for(scheduler=evil),
        "evidence": {"verdict": evil, "speedup": {"measured": 2.0}},
    }
    for name, read in (("cache-dit", yaml.safe_load), ("sglang", str), ("stable-diffusion.cpp", str)):
        text = export(held(BEHIND_THE_FIRST, **changes), name).text
        assert read(text)
        assert not [line for line in text.splitlines() if line.startswith(("import", "SGLANG_CACHE_DIT_ENABLED=false"))]
        assert not [fact for fact in export(held(BEHIND_THE_FIRST, **changes), name).facts if "\n" in fact]
    name = 'u\nimport os\n", __import__("os"), "'
    two = held(name=evil, made_for=made_for(names=("transformer", name)))
    made = export(two, "cache-dit", Facts(boundary=0.55))
    assert made.losses[1].startswith(name)
    module = ast.parse(made.text)
    assert [type(each).__name__ for each in module.body] == ["Import", "Assign", "FunctionDef"]
    assert ast.literal_eval(module.body[1].value).keys() == {"transformer", name}


def test_evidence_of_another_form_is_left_out() -> None:
    odd = {"speedup": "fast", "fidelity": {"psnr_db": "good"}, "verdict": "accept"}
    made = export(held(BEHIND_THE_FIRST, evidence=odd), "cache-dit")
    assert "# measured in pabtune: verdict accept\n" in made.text

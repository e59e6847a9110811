import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from jsonschema import Draft202012Validator

from pabtune.records.classifiers import PromptClassifier
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy, check_content
from pabtune.records.rules import Rule

FULL = Policy(
    name="full",
    rules=(
        Rule(kind="spatial", range=2, window=(4, 26)),
        Rule(kind="cross", range=6, noise_window=(0.45, 0.93), anchor="start"),
        Rule(kind="mlp", range=2, window=(8, 24), layers=(0, 1)),
        Rule(kind="temporal", compute=(0, 1, 5)),
    ),
    variants={"still": (Rule(kind="spatial", range=4, window=(2, 28)),)},
    made_for=MadeFor(
        model="STDiT3Transformer3DModel",
        steps=30,
        sigmas=tuple(round(1 - step / 30, 6) for step in range(30)),
        settings={"size": "8x24x24"},
    ),
    evidence={"verdict": "accept"},
    provenance={"trial": 4},
)


def test_a_file_gives_the_same_policy_back(tmp_path: Path) -> None:
    FULL.save(tmp_path / "full.json")
    assert Policy.load(tmp_path / "full.json") == FULL
    assert Policy.load(tmp_path / "full.json").digest == FULL.digest


def test_a_way_of_keeping_outputs_is_written_only_where_it_is_not_exact(tmp_path: Path) -> None:
    assert "store" not in FULL.to_document()
    packed = Policy(name="packed", rules=FULL.rules, store="int8")
    packed.save(tmp_path / "packed.json")
    assert Policy.load(tmp_path / "packed.json") == packed
    with pytest.raises(PolicyError, match="is not one of"):
        Policy(name="wrong", store="fp4")  # type: ignore[arg-type]


def test_the_digest_sees_every_rule() -> None:
    assert FULL.digest != Policy(name="full", rules=FULL.rules[:3]).digest


def test_variants_are_chosen_by_content() -> None:
    assert FULL.rules_for("still") == FULL.variants["still"]
    assert FULL.rules_for(None) == FULL.rules
    with pytest.raises(PolicyError, match="no variant for content 'fast'; it has: still"):
        FULL.rules_for("fast")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(kind="spatial", range=2), "needs either `compute`, or a `range` and one of"),
        (Rule(kind="spatial", range=2, window=(1, 3), noise_window=(0.1, 0.2)), "needs either"),
        (Rule(kind="spatial", window=(1, 3)), "needs either"),
        (Rule(kind="spatial", range=2, window=(5, 5)), "must have start < stop"),
        (Rule(kind="spatial", compute=(1, 2)), "must start with step 0"),
        (Rule(kind="spatial", compute=(0, 2, 2)), "must start with step 0 and rise"),
        (Rule(kind="spatial", compute=(0,), range=2), "stands alone"),
        (Rule(kind="spatial", range=0, window=(1, 3)), "`range` must be a whole number from 1 on, but is 0"),
        (Rule(kind="spatial", range=2, window=(1.0, 9.0)), "`window` must hold whole numbers"),  # type: ignore[arg-type]
        (Rule(kind="spatial", range=2, window=(-1, 3)), "`window` must hold whole numbers from 0 on"),
        (Rule(kind="spatial", range=2, window=(1, 2, 3)), "needs a start and a stop"),  # type: ignore[arg-type]
        (Rule(kind="spatial", range=2, noise_window=(0.5, 1.5)), "noise levels lie in 0..1"),
        (Rule(kind="spatial", compute=()), "must start with step 0"),
        (Rule(kind="spatial", compute=(0, 2.0)), "`compute` must hold whole numbers"),  # type: ignore[arg-type]
        (Rule(kind="spatial", range=2, window=(1, 3), layers=(1, 1)), "each once"),
        (Rule(kind="spatial", range=2, window=(1, 3), anchor="end"), "anchor: 'end' is not one of"),  # type: ignore[arg-type]
        (Rule(kind="joint", range=2, window=(1, 3)), "is not one of"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: Rule, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy(name="wrong", rules=(rule,))


def test_policies_are_kept_in_folders_as_models_are(tmp_path) -> None:
    policy = Policy(name="mine", rules=(Rule(kind="mlp", range=2, window=(1, 4)),))
    policy.save_pretrained(tmp_path / "mine")
    assert Policy.from_pretrained(tmp_path / "mine") == policy
    with pytest.raises(PolicyError, match="no policy.json in 'not a repository at all'"):
        Policy.from_pretrained("not a repository at all")


def test_pushing_uploads_the_file(monkeypatch) -> None:
    """The hub itself cannot be reached from here: what its client is asked to do is looked at instead."""
    asked = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: asked.update(repo=repo_id, **options))
    monkeypatch.setattr(HfApi, "upload_file", lambda self, **options: asked.update(options))
    policy = Policy(name="mine")
    policy.push_to_hub("me/mine", token="secret", commit_message="first")
    assert (asked["repo"], asked["exist_ok"], asked["path_in_repo"]) == ("me/mine", True, "policy.json")
    assert Policy.from_document(json.loads(asked["path_or_fileobj"])) == policy
    assert asked["commit_message"] == "first"


def test_a_policy_is_checked_against_its_schema_once_and_only_when_it_is_loaded(tmp_path, monkeypatch) -> None:
    """A search builds thousands of policies: a construction must not cost a validation of JSON."""
    checked = []
    iter_errors = Draft202012Validator.iter_errors
    monkeypatch.setattr(
        Draft202012Validator, "iter_errors", lambda self, document: checked.append(1) or iter_errors(self, document)
    )
    Policy(name="mine", rules=FULL.rules).save(tmp_path / "mine.json")
    assert not checked
    Policy.load(tmp_path / "mine.json")
    assert len(checked) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"made_for": MadeFor(fingerprint="sha256:12")}, "64 hex digits"),
        ({"made_for": MadeFor(steps=0)}, "number of steps must be a whole number from 1 on, but is 0"),
        ({"made_for": MadeFor(sigmas=())}, "list of noise levels is empty"),
    ],
)
def test_a_policy_that_could_not_be_loaded_again_cannot_be_made(changes, message) -> None:
    with pytest.raises(PolicyError, match=message):
        replace(FULL, **changes)


def test_whole_numbers_may_be_written_as_floats() -> None:
    """Fault 19: `"window": [1.0, 9.0]` and `"compute": [0, 2.0]` were tracebacks; to JSON Schema 1.0 is an integer."""
    rules = [
        {"kind": "spatial", "range": 2.0, "window": [1.0, 9.0], "layers": [1.0]},
        {"kind": "mlp", "compute": [0, 2.0]},
        {"kind": "transformer", "count": 4.0, "first": 1.0, "last": 1.0},
    ]
    document = {"schema": "pabtune.policy/2", "name": "p", "rules": rules, "steps": 9.0, "made_for": {"steps": 9.0}}
    policy = Policy.from_document(document)
    assert policy.rules == (
        Rule(kind="spatial", range=2, window=(1, 9), layers=(1,)),
        Rule(kind="mlp", compute=(0, 2)),
        Rule(kind="transformer", count=4, first=1, last=1),
    )
    text = json.dumps([policy.to_document()[key] for key in ("rules", "steps", "made_for")])
    assert ".0" not in text


@pytest.mark.parametrize("value", [1.5, 1e30, "1", True, None, [1]])
@pytest.mark.parametrize("key", ["range", "window", "compute", "layers", "count"])
def test_what_is_no_whole_number_is_refused(key, value) -> None:
    """Fault 19: also numbers of more than 64 bits that are written as floats."""
    rule = {"kind": "spatial", key: [0, value] if key in ("window", "compute", "layers") else value}
    with pytest.raises(PolicyError):
        Policy.from_document({"schema": "pabtune.policy/2", "name": "p", "rules": [rule]})


@pytest.mark.parametrize("made_for", [{"sigmas": [1]}, {"sigmas": [1], "steps": 1}, {"sigmas": [1, 0]}])
def test_noise_levels_may_be_written_as_integers(made_for) -> None:
    """Fault 19: `made_for.sigmas: [1]` was a traceback."""
    document = {"schema": "pabtune.policy/2", "name": "p", "rules": [], "made_for": made_for}
    assert Policy.from_document(document).made_for.sigmas == tuple(made_for["sigmas"])
    with pytest.raises(PolicyError, match="need as many noise levels"):
        Policy.from_document({**document, "made_for": {"sigmas": [1], "steps": 2}})


TOLD = replace(
    FULL,
    variants={**FULL.variants, "fast": ()},
    classifier=PromptClassifier(
        bias={"still": 0.0, "fast": 0.0, "slow": 0.0},
        words={"still": {"rests": 2.0}, "fast": {"runs": 2.0}, "slow": {"walks": 2.0}},
        margin=1.0,
    ),
)


def test_a_classifier_survives_its_file_and_a_file_needs_none(tmp_path: Path) -> None:
    TOLD.save(tmp_path / "told.json")
    assert Policy.load(tmp_path / "told.json") == TOLD
    assert "classifier" not in FULL.to_document()
    assert Policy.from_document(FULL.to_document()).classifier is None
    assert TOLD.digest != replace(TOLD, classifier=None).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, "classifier: .*'speed' was unexpected"),
        ({"margin": "wide"}, "classifier.margin"),
        ({"classes": {"fast": {"bias": 0, "words": {"runs": "much"}}, "slow": {"bias": 0, "words": {}}}}, "words.runs"),
        ({"classes": {"fast": {"bias": 0, "words": {}}}}, "classifier.classes"),
    ],
)
def test_a_broken_classifier_is_refused(changes, message) -> None:
    document = TOLD.to_document()
    with pytest.raises(PolicyError, match=message):
        Policy.from_document({**document, "classifier": {**document["classifier"], **changes}})


def test_what_a_run_may_be_of_is_one_class_or_by_the_prompt_any() -> None:
    assert TOLD.choices("still") == ("still",)
    assert TOLD.choices(None) == (None,)
    assert TOLD.choices("auto") == (None, "still", "fast")
    with pytest.raises(PolicyError, match="has no classifier of prompts"):
        FULL.choices("auto")
    with pytest.raises(PolicyError, match="no variant for content 'slow'"):
        TOLD.choices("slow")
    with pytest.raises(PolicyError, match="cannot be called 'auto'"):
        Policy(name="p", variants={"auto": ()})


def test_prompts_of_a_class_without_a_variant_are_under_the_general_rules() -> None:
    assert TOLD.content_of(["it runs"]) == "fast"
    assert TOLD.content_of(["it walks"]) is None
    assert TOLD.content_of(["it runs", "it rests"]) is None
    assert FULL.content_of(["it rests"]) is None


def test_a_content_that_no_policy_knows_is_refused() -> None:
    plain = Policy(name="plain")
    for content in (None, "auto", "still"):
        check_content([plain, TOLD], content)
    check_content([], "wild")
    with pytest.raises(PolicyError, match="'plain' has no variant for content 'wild'"):
        check_content([plain, TOLD], "wild")
    with pytest.raises(PolicyError, match="'plain' has no classifier"):
        check_content([plain, FULL], "auto")

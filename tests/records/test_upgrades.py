import json
from pathlib import Path

import pytest

from pabtune.records.errors import ProfileError
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.upgrades import upgrade
from tests.records.test_profiles import make_profile

ROOT = Path(__file__).parents[2]
WINDOW = {"shape": "u", "start": 1, "stop": 4, "floor": 0.1, "limit": 0.2}
CONCLUSIONS = {"windows": {"all": {"spatial": WINDOW}}, "ranking": [{"kind": "mlp", "change": 0.1, "margin": None}]}


def as_version_1(path: Path) -> dict:
    """The document of a file as version 1 wrote it."""
    document = json.loads(path.read_text())
    return {**document, **CONCLUSIONS, "schema": "pabtune.profile/1"}


def test_a_profile_of_version_1_is_read_and_written_as_version_2(tmp_path) -> None:
    profile = make_profile()
    profile.save(tmp_path / "p.json")
    old = as_version_1(tmp_path / "p.json")
    (tmp_path / "p.json").write_text(json.dumps(old))
    upgraded = Profile.load(tmp_path / "p.json")
    assert (upgraded.call, upgraded.site_bytes) == (profile.call, profile.site_bytes)
    assert all((upgraded.arrays[name] == array).all() for name, array in profile.arrays.items())
    upgraded.save(tmp_path / "new.json")
    document = json.loads((tmp_path / "new.json").read_text())
    assert document["schema"] == "pabtune.profile/2"
    assert not {"windows", "ranking"} & set(document)
    assert Profile.load(tmp_path / "new.json").digest == upgraded.digest


def test_the_shipped_policy_names_the_shipped_profile() -> None:
    profile, policy = (
        Profile.load(ROOT / "profiles" / "shapes-30steps.json"),
        Policy.load(ROOT / "policies" / "shapes-30steps.json"),
    )
    assert profile.digest == policy.provenance["profile"]
    assert profile.has_sensitivity
    assert json.loads((ROOT / "profiles" / "shapes-30steps.json").read_text())["schema"] == "pabtune.profile/2"


@pytest.mark.parametrize(
    ("missing", "message"),
    [(("site_bytes", "site_int8_bytes", "call"), "before site_bytes, site_int8_bytes, call were"), (("call",), "call")],
)
def test_older_files_that_lack_measurements_say_which(tmp_path, missing, message) -> None:
    make_profile().save(tmp_path / "p.json")
    old = {key: value for key, value in as_version_1(tmp_path / "p.json").items() if key not in missing}
    (tmp_path / "p.json").write_text(json.dumps(old))
    with pytest.raises(ProfileError, match=f"p.json: made {'.*' + message}.*; profile again"):
        Profile.load(tmp_path / "p.json")


def test_other_documents_are_left_to_their_schema() -> None:
    for document in ({"schema": "pabtune.profile/3"}, {"schema": "pabtune.policy/2"}, {}):
        assert upgrade(document, "x.json") == document

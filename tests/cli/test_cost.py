import json
from pathlib import Path

from tests.cli.conftest import PROFILE


def test_cost_tells_what_a_policy_computes_takes_and_holds(pabtune, short_profile) -> None:
    told = pabtune("cost", short_profile, "--policy", "pab246", "--json").document()
    assert 0 < told["compute_fraction"] < 1
    assert 0 < told["predicted_time_fraction"] < 1
    calls = told["calls"]
    assert all(
        calls["computed"][kind] + calls["broadcast"][kind] == count for kind, count in counts(short_profile).items()
    )
    assert told["memory"]["peak_stored_bytes"] > 0
    assert "per prompt at most" in pabtune("cost", short_profile, "--policy", "pab246").stdout
    nothing = pabtune("cost", short_profile, "--policy", "none", "--json").document()
    assert (nothing["compute_fraction"], nothing["memory"]["peak_stored_bytes"]) == (1.0, 0)


def counts(profile: str) -> dict[str, int]:
    document = json.loads(Path(profile).read_text())
    kinds = [site["kind"] for site in document["sites"]]
    return {kind: kinds.count(kind) * document["made_for"]["steps"] for kind in kinds}


def test_a_profile_without_sizes_says_so(pabtune) -> None:
    assert "profile again" in pabtune("cost", PROFILE, "--policy", "pab246").stdout


def test_a_policy_of_another_model_is_refused(pabtune, short_profile, tmp_path) -> None:
    other = {"schema": "pabtune.policy/1", "name": "x", "rules": [], "made_for": {"fingerprint": "sha256:" + "0" * 64}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = pabtune("cost", short_profile, "--policy", str(tmp_path / "other.json"))
    assert done.returncode == 2
    assert "was made for another model" in done.stderr

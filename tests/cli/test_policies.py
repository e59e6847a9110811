def test_policies_lists_the_presets(pabtune) -> None:
    assert list(pabtune("policies", "--json").document()["presets"]) == ["none", "pab246", "pab357", "pab579"]
    assert "pab246" in pabtune("policies").stdout

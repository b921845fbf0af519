"""Profiles (W2): every number has a source, and the digest sees every change of meaning and no comment."""

from pathlib import Path

import pytest

from certify.profile import STANDARD, load_profile
from certify.registry import FAMILIES
from zeitgeist.core.errors import ZeitgeistError

TEXT = STANDARD.read_text(encoding="utf-8")


def write(tmp_path: Path, text: str) -> Path:
    """A profile file."""
    path = tmp_path / "profile.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.requirement("W2")
def test_every_tolerance_of_the_standard_profile_has_a_unit_and_a_source() -> None:
    """And the levels name only families that exist."""
    profile = load_profile()
    assert all(t.unit and len(t.source) > 20 for t in profile.tolerances.values())
    assert all(set(families) <= set(FAMILIES) for rows in profile.levels.values() for _, families in rows)
    assert profile["fidelity.ulp"] == 64 * 2.0**-24


@pytest.mark.requirement("W2")
def test_the_digest_follows_values_and_sources_and_not_comments(tmp_path: Path) -> None:
    """A comment changes nothing; a value, a source, a level does."""
    same = load_profile(write(tmp_path, "# another comment\n" + TEXT)).digest
    assert same == load_profile().digest
    for old, new in (("value = 5e-05", "value = 6e-05"), ("SGLang 5e-2", "SGLang 5e-02"), ('L4 = ["X"]', "L4 = []")):
        assert old in TEXT
        assert load_profile(write(tmp_path, TEXT.replace(old, new, 1))).digest != same


@pytest.mark.requirement("W2")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value = 4.0", "value = nan"),
        ("value = 4.0", "value = -1.0"),
        ("value = 4.0", 'value = "4"'),
        ('unit = "x noise floor"', ""),
        ('source = "design', 'sauce = "design'),
        ("version = 1", "version = 1\nmore = 2"),
        ("name = ", "name == "),
    ],
)
def test_a_damaged_profile_is_refused(tmp_path: Path, old: str, new: str) -> None:
    """One line spoilt at a time: `zg/certify/bad-profile`, never a default."""
    assert old in TEXT
    with pytest.raises(ZeitgeistError, match="zg/certify/bad-profile"):
        load_profile(write(tmp_path, TEXT.replace(old, new, 1)))


def test_an_unknown_key_is_refused() -> None:
    """A misspelt tolerance must not become a number."""
    with pytest.raises(ZeitgeistError, match=r"no\.such"):
        load_profile()["no.such"]

"""The JSON Schemas of messages say what our decoder takes: judged by a library that knows neither (A7, A9)."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fixtures.golden_records import FOLDER, kebab
from zeitgeist.core.wire.registry import KINDS

pytestmark = [pytest.mark.requirement("A7"), pytest.mark.requirement("A9")]

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "spec" / "schemas"
NAMES = sorted(kebab(kind.__name__) for kind in KINDS)


def loaded(name: str) -> tuple[jsonschema.Draft202012Validator, dict[str, Any]]:
    """The schema of a message, and the value of its golden vector."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema), json.loads((FOLDER / f"{name}.json").read_text())["value"]


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_message_is_what_its_schema_describes(name: str) -> None:
    """And not without one of its fields, nor with one more: both are refused by the decoder too."""
    validator, value = loaded(name)
    validator.validate(value)
    for field in value:
        less = {key: one for key, one in value.items() if key != field}
        assert not validator.is_valid(less), f"{name} without {field}"
    assert not validator.is_valid(value | {"surplus": None})


@pytest.mark.parametrize("name", NAMES)
def test_a_field_of_another_type_is_not_what_the_schema_describes(name: str) -> None:
    """Each field in turn replaced by a value that no record has there."""
    validator, value = loaded(name)
    for field in value:
        wrong = copy.deepcopy(value) | {field: [[[3.5]]]}
        assert not validator.is_valid(wrong), f"{name}.{field}"


def test_there_is_one_schema_for_each_message_and_no_other() -> None:
    """A schema without a message would describe what nobody takes."""
    assert sorted(path.stem for path in SCHEMAS.glob("*.json")) == NAMES

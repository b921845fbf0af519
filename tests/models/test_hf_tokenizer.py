"""tokenizer.json: parts that we do not know are refused by name; data that contradict themselves too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.manifest import ZG_TINY
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import open_bundle


def drop_a_byte(fields: Any) -> None:
    fields["model"]["vocab"]["€€"] = fields["model"]["vocab"].pop("a")


def set_part(name: str, value: Any) -> Callable[[Any], None]:
    return lambda fields: fields.update({name: value})


def set_model(name: str, value: Any) -> Callable[[Any], None]:
    return lambda fields: fields["model"].update({name: value})


def set_added(name: str, value: Any) -> Callable[[Any], None]:
    return lambda fields: fields["added_tokens"][0].update({name: value})


SPLIT = {"type": "Sequence", "pretokenizers": []}
REFUSED: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "normaliser": (set_part("normalizer", {"type": "NFC"}), "unknown-tokenizer", "normalizer"),
    "another splitter": (set_part("pre_tokenizer", SPLIT), "unknown-tokenizer", "pre_tokenizer"),
    "a blank before": (
        set_part("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}),
        "unknown-tokenizer",
        "pre_tokenizer",
    ),
    "no splitter": (set_part("pre_tokenizer", None), "bad-config", "pre_tokenizer"),
    "another decoder": (set_part("decoder", {"type": "WordPiece"}), "unknown-tokenizer", "decoder"),
    "tokens added around": (
        set_part("post_processor", {"type": "TemplateProcessing"}),
        "unknown-tokenizer",
        "post_processor",
    ),
    "another model": (set_model("type", "Unigram"), "unknown-tokenizer", "model.type"),
    "dropout": (set_model("dropout", 0.1), "unknown-tokenizer", "dropout"),
    "bytes as fallback": (set_model("byte_fallback", True), "unknown-tokenizer", "byte_fallback"),
    "words whole": (set_model("ignore_merges", True), "unknown-tokenizer", "ignore_merges"),
    "blanks eaten": (set_added("lstrip", True), "unknown-tokenizer", "lstrip"),
    "gap in the ids": (set_added("id", 700), "bad-tokenizer", "tokenizer.json"),
    "id taken twice": (set_added("content", "<|other|>"), "bad-tokenizer", "tokenizer.json"),
    "merge of one": (set_model("merges", [["a"]]), "bad-tokenizer", "merges[0]"),
    "merge to no token": (set_model("merges", [["a", "€"]]), "bad-tokenizer", "tokenizer.json"),
    "a byte without token": (drop_a_byte, "bad-tokenizer", "tokenizer.json"),
    "ids that are texts": (set_model("vocab", {"a": "1"}), "bad-tokenizer", "vocab"),
}


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_that_is_almost_ours_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """The model still opens, since its weights are sound; tokenizing or describing it is refused."""
    change, id, field = REFUSED[case]
    directory = tmp_path / "m"
    shutil.copytree(ZG_TINY, directory, ignore=shutil.ignore_patterns(".*"))
    fields = json.loads((directory / "tokenizer.json").read_text())
    change(fields)
    (directory / "tokenizer.json").write_text(json.dumps(fields))
    bundle = open_bundle(directory)
    with pytest.raises(ZeitgeistError) as caught:
        bundle.descriptor()
    assert caught.value.id == f"zg/model/{id}" and field in caught.value.field, str(caught.value)


@pytest.mark.requirement("R3")
def test_the_older_spelling_of_merges_and_a_template_file_give_the_same_tokenizer(tmp_path: Path) -> None:
    """Merges as texts with a blank; the chat template as chat_template.jinja."""
    directory = tmp_path / "m"
    shutil.copytree(ZG_TINY, directory, ignore=shutil.ignore_patterns(".*"))
    fields = json.loads((directory / "tokenizer.json").read_text())
    fields["model"]["merges"] = [" ".join(pair) for pair in fields["model"]["merges"]]
    (directory / "tokenizer.json").write_text(json.dumps(fields))
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_bundle(directory).descriptor().tokenizer == open_bundle(ZG_TINY).descriptor().tokenizer

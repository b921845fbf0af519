"""tokenizer.json and tokenizer_config.json of a model directory → `BpeTokenizer` (T, A3).

Law: only byte-level BPE with GPT-2's splitting is read; every other part of tokenizer.json is refused by name, since a
tokenizer that is almost right gives plausible wrong text.
"""

from pathlib import Path
from typing import Any

from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.models.json_file import SIZE_MAX, JsonFields, read_json, read_text
from zeitgeist.models.tokenizer_bpe import BpeTokenizer, token_bytes_of

__all__ = ["TOKENIZER_FILES", "read_hf_tokenizer"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def unknown(where: str, got: object, wanted: str) -> RemoteProtocolError:
    """The refusal of a part that we do not know."""
    return refuse("zg/model/unknown-tokenizer", where, got, wanted)


def read_hf_tokenizer(directory: Path, config: JsonFields) -> BpeTokenizer:
    """The tokenizer of a directory.

    Config: its config.json, for the ids of start and end where the tokenizer names none.
    """
    fields = read_json(directory / "tokenizer.json")
    settings = (
        read_json(directory / "tokenizer_config.json")
        if (directory / "tokenizer_config.json").is_file()
        else JsonFields({}, "tokenizer_config.json")
    )
    check_pipeline(fields)
    model = fields.fields("model")
    vocabulary = read_vocabulary(model)
    specials, added = read_added(fields)
    tokens = place_tokens(vocabulary, {**specials, **added}, fields.where)
    outside = {*specials.values(), *added.values()}
    return BpeTokenizer(
        tokens=tokens,
        merges=read_merges(model),
        specials=specials,
        added=added,
        where=fields.where,
        token_bytes=tuple(
            token.encode() if id in outside else token_bytes_of(token, fields.where) for id, token in enumerate(tokens)
        ),
        chat_template=read_chat_template(directory, settings),
        bos=named_id(settings, "bos_token", specials, config, "bos_token_id"),
        eos=named_id(settings, "eos_token", specials, config, "eos_token_id"),
    )


def check_pipeline(fields: JsonFields) -> None:
    """Normaliser, pre-tokeniser, model and post-processor must be those of plain byte-level BPE."""
    where = fields.where
    if fields.get("normalizer") is not None:
        raise unknown(f"{where}: normalizer", fields.get("normalizer"), "none")
    splitter = fields.fields("pre_tokenizer")
    if splitter.get("type") != "ByteLevel" or splitter.get("add_prefix_space") or not splitter.flag("use_regex", True):
        raise unknown(f"{where}: pre_tokenizer", splitter.values, "ByteLevel with use_regex, without add_prefix_space")
    if fields.fields("decoder").get("type") != "ByteLevel":
        raise unknown(f"{where}: decoder", fields.get("decoder"), "ByteLevel")
    if fields.get("post_processor") is not None and fields.fields("post_processor").get("type") != "ByteLevel":
        raise unknown(
            f"{where}: post_processor", fields.get("post_processor"), "none or ByteLevel: nothing may be added"
        )
    model = fields.fields("model")
    if model.get("type") != "BPE":
        raise unknown(f"{where}: model.type", model.get("type"), "BPE")
    for name in (
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "byte_fallback",
        "ignore_merges",
    ):
        if model.get(name):
            raise unknown(f"{where}: model.{name}", model.get(name), "none")


def read_vocabulary(model: JsonFields) -> dict[str, int]:
    """Token text → id; ids are whole numbers."""
    vocabulary = model.fields("vocab").values
    if not all(type(id) is int and id >= 0 for id in vocabulary.values()):
        raise refuse("zg/model/bad-tokenizer", f"{model.where}.vocab", "ids that are not whole numbers", "token → id")
    return vocabulary


def read_merges(model: JsonFields) -> tuple[tuple[str, str], ...]:
    """Pairs in rank order: lists of two, or one text with a blank as older files have it."""
    pairs: list[tuple[str, str]] = []
    for rank, item in enumerate(model.items("merges")):
        parts: Any = item.split(" ") if isinstance(item, str) else item
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise refuse("zg/model/bad-tokenizer", f"{model.where}.merges[{rank}]", item, "two texts")
        pairs.append((parts[0], parts[1]))
    return tuple(pairs)


def read_added(fields: JsonFields) -> tuple[dict[str, int], dict[str, int]]:
    """(special, other) added tokens by text. Ones that strip blanks or want whole words are refused."""
    found: tuple[dict[str, int], dict[str, int]] = {}, {}
    for index, item in enumerate([] if fields.get("added_tokens") is None else fields.items("added_tokens")):
        where = f"{fields.where}: added_tokens[{index}]"
        if not isinstance(item, dict):
            raise refuse("zg/model/bad-tokenizer", where, type(item).__name__, "an object")
        token = JsonFields(item, where)
        for name in ("single_word", "lstrip", "rstrip"):
            if token.get(name):
                raise unknown(f"{where}.{name}", True, "false")
        text, id = token.text("content"), token.get("id")
        if not text or type(id) is not int or id < 0:
            raise refuse("zg/model/bad-tokenizer", where, item, "a text and an id")
        found[0 if token.flag("special", False) else 1][text] = id
    return found


def place_tokens(vocabulary: dict[str, int], added: dict[str, int], where: str) -> tuple[str, ...]:
    """Texts by id; ids must be 0 … n - 1, each once."""
    by_id: dict[int, str] = {}
    for token, id in {**vocabulary, **added}.items():
        if by_id.setdefault(id, token) != token:
            raise refuse(
                "zg/model/bad-tokenizer", where, f"id {id} for {by_id[id]!r} and {token!r}", "one token for each id"
            )
    if sorted(by_id) != list(range(len(by_id))):
        raise refuse(
            "zg/model/bad-tokenizer",
            where,
            f"{len(by_id)} tokens, highest id {max(by_id, default=0)}",
            "ids without gaps",
        )
    return tuple(by_id[id] for id in range(len(by_id)))


def read_chat_template(directory: Path, settings: JsonFields) -> str:
    """chat_template.jinja, else `chat_template` of tokenizer_config.json, else nothing. It is data here, never run."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return read_text(path)
    return "" if settings.get("chat_template") is None else settings.text("chat_template")


def named_id(
    settings: JsonFields, name: str, specials: dict[str, int], config: JsonFields, fallback: str
) -> int | None:
    """The id of a named token, as a text or an object with `content`; else config.json's id; else None."""
    token = settings.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        if token not in specials:
            raise refuse("zg/model/bad-tokenizer", f"{settings.where}: {name}", token, "one of the special tokens")
        return specials[token]
    id = config.get(fallback)
    if type(id) is int and not 0 <= id <= SIZE_MAX:
        raise config.wrong(fallback, "a token id")
    return id if type(id) is int else None

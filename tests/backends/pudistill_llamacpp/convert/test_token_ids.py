"""The written vocabulary gives in llama.cpp the ids that the checkpoint's own tokenizer gives, text by text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pudistill_cli.backend_api.export_checks import STRESS
from pudistill_cli.errors import ExportError
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_llamacpp.convert.pretokenizer import NAMES, pretokenizer_name
from pudistill_llamacpp.convert.writer import write_vocabulary
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.native.vocabulary import Vocabulary
from pudistill_llamacpp.verify import check_text, expected_of
from tests.backends.pudistill_llamacpp.convert.vocabularies import SPACE, rebuilt, trained
from tests.backends.random_models import save_spm

SEPARATOR = "\n__ggml_vocab_test__\n"
REAL = ("gpt2", "qwen2.5-0.5b-instruct", "smollm2-135m-instruct")
LISTED = {"gpt2": "gpt-2", "qwen2.5-0.5b-instruct": "qwen2"}
"""The same vocabulary among upstream's, with the ids of its texts."""


@contextmanager
def vocabulary(path: Path) -> Iterator[Vocabulary]:
    model = Model.open(path, vocab_only=True)
    try:
        yield model.vocabulary
    finally:
        model.close()


def upstream_texts(upstream: Path, name: str) -> list[str]:
    """The texts that upstream tests a vocabulary on."""
    text = (upstream / "models" / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8")
    return text.split(SEPARATOR)


def upstream_ids(upstream: Path, name: str) -> list[tuple[int, ...]]:
    lines = (upstream / "models" / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    return [tuple(map(int, line.split())) for line in lines]


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers(name: str, shared: Path, upstream: Path, tmp_path: Path) -> None:
    """On stress texts, with special tokens parsed and not, with BOS and EOS added and not; and on upstream's texts."""
    folder = shared / "tokenizers" / name
    write_vocabulary(folder, tmp_path / "v.gguf")
    student = StudentTokenizer.load(folder)
    check_text(tmp_path / "v.gguf", expected_of(student, {}), upstream_texts(upstream, "qwen2"))
    if name in LISTED:
        check_listed_ids(tmp_path / "v.gguf", student.tokenizer, upstream, LISTED[name])


def check_listed_ids(file: Path, tokenizer: Tokenizer, upstream: Path, name: str) -> None:
    """llama.cpp with our file, and the checkpoint's tokenizer, give the ids that upstream lists."""
    with vocabulary(file) as ours:
        for text, wanted in zip(upstream_texts(upstream, name), upstream_ids(upstream, name), strict=False):
            assert ours.encode(text, special=False) == wanted, text
            assert tuple(tokenizer.encode(text, add_special_tokens=False).ids) == wanted, text


@pytest.mark.parametrize(("name", "known"), [*zip(REAL, ("gpt-2", "qwen2", "smollm"), strict=True)])
def test_the_name_of_the_cuts_of_real_tokenizers(name: str, known: str, shared: Path) -> None:
    """The names that upstream's hashes give these three checkpoints."""
    content = json.loads(StudentTokenizer.load(shared / "tokenizers" / name).tokenizer.to_str())
    assert pretokenizer_name(content) == known


@pytest.mark.slow  # reads 128,000 tokens and 280,000 merges with the gguf package
@pytest.mark.parametrize("name", ["llama-bpe", "llama-spm", "phi-3"])
def test_vocabularies_of_llama_cpp(name: str, upstream: Path, tmp_path: Path) -> None:
    """A tokenizer.json with a vocabulary of llama.cpp's own that no real tokenizer here has: written and read back."""
    write_vocabulary(rebuilt(upstream / "models" / f"ggml-vocab-{name}.gguf", tmp_path), tmp_path / "v.gguf")
    check_listed_ids(tmp_path / "v.gguf", Tokenizer.from_file(str(tmp_path / "tokenizer.json")), upstream, name)


@pytest.mark.parametrize(("key", "name"), [*NAMES.items()], ids=[*NAMES.values()])
def test_every_known_cut(key: tuple, name: str, upstream: Path, tmp_path: Path) -> None:
    """A vocabulary learned behind each pre-tokenizer of the table: what the steps do is what llama.cpp's name does."""
    steps, ignore = key
    lines = [*STRESS, *upstream_texts(upstream, "llama-bpe")]
    folder = trained(steps, ignore, [line for line in lines for _ in range(3)], tmp_path)
    assert pretokenizer_name(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))) == name
    write_vocabulary(folder, tmp_path / "v.gguf")
    check_text(tmp_path / "v.gguf", expected_of(StudentTokenizer.load(folder), {}), lines)


@pytest.mark.parametrize("wrong", ["smollm", "llama-bpe", "qwen2"])
def test_a_wrong_cut_is_seen(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check fails when a vocabulary learned behind GPT-2's cuts is written under another name."""
    steps, ignore = next(key for key, name in NAMES.items() if name == "gpt-2")
    folder = trained(steps, ignore, [line for line in STRESS for _ in range(3)], tmp_path)
    monkeypatch.setattr("pudistill_llamacpp.convert.bpe.pretokenizer_name", lambda content: wrong)
    write_vocabulary(folder, tmp_path / "v.gguf")
    with pytest.raises(ExportError, match="other token ids"):
        check_text(tmp_path / "v.gguf", expected_of(StudentTokenizer.load(folder), {}))


def test_stories(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "stories260K"
    write_vocabulary(folder, tmp_path / "v.gguf")
    check_text(tmp_path / "v.gguf", expected_of(StudentTokenizer.load(folder), {}))


def test_every_stop_token_ends_an_answer(shared: Path, tmp_path: Path) -> None:
    """stories260K stops at <s> and </s>; by its text, llama.cpp would stop at </s> alone."""
    folder = shared / "models" / "stories260K"
    write_vocabulary(folder, tmp_path / "v.gguf")
    with vocabulary(tmp_path / "v.gguf") as loaded:
        assert set(StudentTokenizer.load(folder).stop_tokens) == {1, 2} == set(loaded.ends)


def save_metaspace(folder: Path, scheme: str) -> None:
    save_spm(folder, prefix=False)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    content |= {"normalizer": None, "pre_tokenizer": step}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_space_where_none_is_yet(tmp_path: Path) -> None:
    save_metaspace(tmp_path, "always")
    with pytest.raises(ExportError, match="Metaspace"):
        write_vocabulary(tmp_path, tmp_path / "v.gguf")


@pytest.mark.parametrize("scheme", ["never", "first"])
def test_where_a_space_is_put_first(scheme: str, tmp_path: Path) -> None:
    """SentencePiece-like tokenizers of newer checkpoints; "first" is right behind a special token, as in every chat."""
    save_metaspace(tmp_path, scheme)
    write_vocabulary(tmp_path, tmp_path / "v.gguf")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with vocabulary(tmp_path / "v.gguf") as loaded:
        for text in STRESS:
            chat = f"<s>{text}</s>{text}"
            assert loaded.encode(chat, special=True) == tuple(tokenizer.encode(chat, add_special_tokens=False).ids)
            if scheme != "first":
                assert loaded.encode(text, special=True) == tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def test_pieces_that_no_merge_makes(tmp_path: Path) -> None:
    """llama.cpp merges by score alone: a piece whose merges are missing must not win over those that are there."""
    save_spm(tmp_path, prefix=True)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = [m for m in content["model"]["merges"] if "".join(m) != "th"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    write_vocabulary(tmp_path, tmp_path / "v.gguf")
    with vocabulary(tmp_path / "v.gguf") as loaded:
        assert loaded.score(content["model"]["vocab"]["th"]) < -len(content["model"]["merges"])

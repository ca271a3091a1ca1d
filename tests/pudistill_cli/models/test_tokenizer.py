"""The student's tokenizer against transformers on real tokenizers, and the edges of answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from unicodedata import normalize

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message
from tests.tiny import STUDENT

FOLDERS = {
    "smollm2": "tokenizers/smollm2-135m-instruct",
    "qwen2.5": "tokenizers/qwen2.5-0.5b-instruct",
    "gpt2": "tokenizers/gpt2",
    "stories": "models/stories260K",
}
END_OF_TURN = {"smollm2": "<|im_end|>", "qwen2.5": "<|im_end|>", "gpt2": "<|endoftext|>", "stories": "</s>"}
STRESS = (
    "Plain words.",
    " leading and trailing ",
    "\n\nnewlines\n\tand tabs\n",
    "In 2024, 1234567.89 x 10^-3 = ?",
    "naïve Ελληνικά русский 中文测试 日本語 हिन्दी العربية",
    "🙂👩‍👩‍👧 🏳️‍🌈",
    "def f(x):\n    return {'a': [x ** 2, None]}  # ok\n",
    '{"action": "add", "title": "lunch"}',
    "a <|im_end|> b <s> c </s> d <|endoftext|> e",
    "  ",
)


@pytest.fixture(params=FOLDERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(shared: Path, name: str) -> Path:
    return shared / FOLDERS[name]


@pytest.fixture
def tokenizer(folder: Path) -> StudentTokenizer:
    return StudentTokenizer.load(folder)


@pytest.fixture
def reference(folder: Path, name: str) -> object:
    """transformers' fast tokenizer on the same tokenizer.json; GPT-2's class for GPT-2's pair of files."""
    transformers = pytest.importorskip("transformers")
    if name == "gpt2":
        return transformers.GPT2Tokenizer.from_pretrained(str(folder))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    special = {k: v for k, v in config.items() if k in ("bos_token", "eos_token", "pad_token", "unk_token") and v}
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def conversations() -> list[list[Message]]:
    one = [[Message("user", text)] for text in STRESS]
    several = [
        Message("system", "Be terse."),
        Message("user", "1+1?"),
        Message("assistant", "2"),
        Message("user", STRESS[4]),
    ]
    return [*one, several]


def test_prompts_have_the_ids_that_transformers_gives(tokenizer: StudentTokenizer, reference: object) -> None:
    template = tokenizer.chat_template.source
    for messages in conversations():
        expected = reference.apply_chat_template(  # type: ignore[attr-defined]
            [{"role": m.role, "content": m.content} for m in messages],
            chat_template=template,
            add_generation_prompt=True,
            return_dict=False,
        )
        assert list(tokenizer.encode_prompt(messages)) == expected


def test_text_has_the_ids_that_transformers_gives(tokenizer: StudentTokenizer, reference: object) -> None:
    for text in STRESS:
        assert list(tokenizer.encode_text(text)) == reference(text)["input_ids"]  # type: ignore[operator]


def test_the_end_of_turn_comes_last_and_only_once_in_every_answer(tokenizer: StudentTokenizer, name: str) -> None:
    end = tokenizer.tokenizer.token_to_id(END_OF_TURN[name])
    assert tokenizer.stop_tokens[0] == end
    for prompt in (tokenizer.encode_prompt([Message("user", "Hi")]), tokenizer.encode_text("Once upon")):
        for text in ("", *STRESS):
            answer = tokenizer.encode_answer(prompt, text)
            assert answer[-1] == end
            assert not set(answer[:-1]) & set(tokenizer.stop_tokens)


def test_an_answer_comes_back_as_it_was(tokenizer: StudentTokenizer) -> None:
    chats = [tokenizer.encode_prompt(messages) for messages in conversations()]
    texts = [tokenizer.encode_text(t) for t in ("Once upon", "Once upon ", "Q: 12\nA:", '{"a": 1', "🙂")]
    for prompt in chats + texts:
        for text in (*STRESS, "ly", ", and so on", "\nnext line"):
            answer = tokenizer.encode_answer(prompt, text)
            assert normalize("NFC", tokenizer.decode_answer(answer, after=prompt)) == normalize("NFC", text)


def test_prompt_and_answer_are_the_ids_of_the_whole_text(tokenizer: StudentTokenizer) -> None:
    prompt = "The capital of France"
    together = tokenizer.encode_text(prompt + " is Paris.")
    ids = tokenizer.encode_text(prompt)
    assert ids + tokenizer.encode_answer(ids, " is Paris.")[:-1] == together


LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("name", "template"),
    [("smollm2", None), ("qwen2.5", None), ("stories", None), ("stories", LLAMA_2), ("smollm2", LLAMA_2)],
    indirect=["name"],
)
def test_prompt_and_answer_are_the_ids_of_the_whole_conversation(
    template: str | None, name: str, shared: Path, tmp_path: Path
) -> None:
    folder = copy(shared, name, tmp_path / "student")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    student = StudentTokenizer.load(folder).answering({})
    assert (student.opening, student.closing) == ((" ", " ") if template else ("", ""))
    for question in conversations():
        prompt = student.encode_prompt(question)
        for words in ("Paris.", "Two\nlines", '{"a": 1}', "def f():\n    pass"):
            whole = student.chat_template.render([*question, Message("assistant", words)], answer_follows=False)
            answer = student.encode_answer(prompt, words)
            expected = student.codec.encode(whole, special=True)[: len(prompt + answer)]
            assert prompt + answer == expected
            assert student.decode_answer(answer, after=prompt) == words


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"], indirect=True)
def test_a_prompt_that_ends_in_a_space_is_told(name: str, shared: Path, tmp_path: Path) -> None:
    """'Bot:', ' Paris' are the tokens of the whole conversation."""
    folder = copy(shared, name, tmp_path / "student")
    turns = (
        "{% for m in messages %}{{ ('Bot: ' if m.role == 'assistant' else 'User: ') + m.content + '\\n' }}{% endfor %}"
    )
    for prompt, notices in (("Bot: ", 1), ("Bot:", 0), ("Bot:\\n", 0)):
        (folder / "chat_template.jinja").write_text(f"{turns}{{{{ '{prompt}' if add_generation_prompt }}}}")
        student = StudentTokenizer.load(folder).answering({})
        assert len(student.template_notices({})) == notices
        assert student.opening == (" " if prompt == "Bot:" else "")


def test_an_answer_is_tokenised_together_with_its_prompt(tmp_path: Path) -> None:
    """Words that depend on what stands before them: `ab` is one word after x, and two elsewhere."""
    words = {"x": 0, "a": 1, "b": 2, "ab": 3, "\n": 4, "</s>": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?<=x)ab|.|\n"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    student = StudentTokenizer.load(tmp_path)
    assert student.encode_answer((0,), "ab") == (3, 5)
    assert student.encode_answer((1,), "ab") == (1, 2, 5)


def test_an_answer_that_would_change_the_prompts_ids_is_tokenised_alone(shared: Path) -> None:
    tokenizer = StudentTokenizer.load(shared / FOLDERS["smollm2"])
    prompt = tokenizer.encode_text("some")
    alone = tokenizer.encode_text("thing")
    assert tokenizer.encode_text("something") != prompt + alone  # joint: one token
    assert tokenizer.encode_answer(prompt, "thing") == (*alone, tokenizer.stop_tokens[0])


def test_every_stop_of_the_configs_is_known(shared: Path) -> None:
    stories = StudentTokenizer.load(shared / FOLDERS["stories"])
    assert stories.stop_tokens == (2, 1)  # generation_config.json: [1, 2]; the end of turn is </s>, 2


def test_a_student_without_a_template_gets_the_plain_one_and_a_notice_where_it_is_used(shared: Path) -> None:
    stories = StudentTokenizer.load(shared / FOLDERS["stories"])
    messages = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")]
    assert stories.render(messages) == "<s>User:\nHi\n\nAssistant:\nHello</s>\n\nUser:\nBye\n\nAssistant:\n"
    assert "no chat template" in stories.notices[0]
    assert StudentTokenizer.load(shared / FOLDERS["stories"], format="text").notices == ()
    assert StudentTokenizer.load(shared / FOLDERS["qwen2.5"]).notices == ()


# --- templates ---


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"eos_token": "</s>"}, datetime(2025, 3, 1))


def rendered(source: str, **variables: object) -> str:
    return template(source).render([Message("user", "<é>")], answer_follows=True, **variables)


def test_templates_have_what_transformers_gives_them() -> None:
    assert rendered("{{ messages | tojson }}") == '[{"role": "user", "content": "<é>"}]'
    assert rendered("{{ strftime_now('%d %b %Y') }}") == "01 Mar 2025"
    assert rendered("{% for m in messages %}{% break %}{% endfor %}{{ eos_token }}") == "</s>"
    assert (
        rendered("{% for m in messages %}\n  {% generation %}\n{{ m.content }}{% endgeneration %}{% endfor %}") == "<é>"
    )
    assert rendered("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}") == "2"
    assert rendered("{% if tools %}no{% elif add_generation_prompt %}yes{% endif %}") == "yes"


def test_variables_are_passed_only_where_the_template_mentions_them() -> None:
    assert rendered("{{ enable_thinking }}", enable_thinking=False) == "False"
    assert rendered("{{ enable }}", enable_thinking=False) == ""
    # One that is not mentioned may be one that Jinja would refuse.
    assert rendered("x", **{"not a name": 1}) == "x"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('System role not supported') }}",
        "{% for m in messages %}",
        "{{ ''.__class__.__mro__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ messages[0].nothing.at_all }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_that_breaks_or_reaches_out_is_an_error(source: str) -> None:
    with pytest.raises(DataError, match="chat template refuses a conversation of user"):
        rendered(source)


# --- files ---


def copy(shared: Path, name: str, to: Path) -> Path:
    shutil.copytree(shared / FOLDERS[name], to, copy_function=shutil.copyfile)
    to.chmod(0o755)
    return to


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_named_default_template_is_taken(shared: Path, tmp_path: Path) -> None:
    folder = copy(shared, "stories", tmp_path / "student")
    forms = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit(folder / "tokenizer_config.json", lambda c: c.update(chat_template=forms))
    assert StudentTokenizer.load(folder).render([Message("user", "x")]) == "D"
    edit(folder / "tokenizer_config.json", lambda c: c.update(chat_template=forms[:1]))
    with pytest.raises(DataError, match="named tool_use"):
        StudentTokenizer.load(folder)


def test_the_jinja_file_wins_over_the_config(shared: Path, tmp_path: Path) -> None:
    folder = copy(shared, "smollm2", tmp_path / "student")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}!")
    tokenizer = StudentTokenizer.load(folder)
    assert tokenizer.render([Message("user", "x")]) == "<|im_start|>!"
    assert tokenizer.stop_tokens == (2,)  # a template that ends no turn: the eos


def test_special_tokens_may_be_objects_and_need_no_mark_in_tokenizer_json(shared: Path, tmp_path: Path) -> None:
    folder = copy(shared, "stories", tmp_path / "student")
    edit(folder / "tokenizer_config.json", lambda c: c.update(eos_token={"content": "</s>", "lstrip": False}))
    (folder / "special_tokens_map.json").unlink()
    edit(folder / "tokenizer.json", lambda c: c.update(added_tokens=[]))
    tokenizer = StudentTokenizer.load(folder)
    assert tokenizer.stop_tokens[0] == 2
    assert tokenizer.encode_text("a</s>")[-1] == 2
    assert tokenizer.decode([403, 2]) == tokenizer.decode([403])


def test_a_stop_token_keeps_what_it_does_to_the_spaces_around_it(shared: Path, tmp_path: Path) -> None:
    """Phi-3's turn ends swallow the space behind them; SmolLM2's is made to."""
    folder = tmp_path / "student"
    shutil.copytree(shared / "tokenizers" / "smollm2-135m-instruct", folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_end|>"
    path.write_text(json.dumps(content))
    text = "a<|im_end|> b"
    expected = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
    assert StudentTokenizer.load(folder).codec.encode(text, special=True) == tuple(expected)
    plain = StudentTokenizer.load(shared / "tokenizers" / "smollm2-135m-instruct").codec.encode(text, special=True)
    assert plain != tuple(expected)


def test_an_end_of_turn_that_is_not_marked_special_is_one_all_the_same(shared: Path, tmp_path: Path) -> None:
    folder = copy(shared, "smollm2", tmp_path / "student")
    edit(folder / "tokenizer_config.json", lambda c: c.update(eos_token="<|endoftext|>", pad_token=None))
    edit(folder / "config.json", lambda c: c.update(eos_token_id=None, pad_token_id=None))
    edit(folder / "tokenizer.json", lambda c: c["added_tokens"][2].update(special=False))  # type: ignore[index]
    tokenizer = StudentTokenizer.load(folder)
    assert tokenizer.stop_tokens == (2, 0)  # <|im_end|>, by the template
    assert tokenizer.decode([2, 2]) == ""
    assert 2 not in tokenizer.encode_answer(tokenizer.encode_text("a"), "b<|im_end|>c")[:-1]


def test_a_tokenizer_that_cannot_end_an_answer_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="no end-of-turn token"):
        StudentTokenizer.load(tmp_path)


def test_missing_and_broken_files_are_named(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        StudentTokenizer.load(tmp_path)
    folder = copy(shared, "gpt2", tmp_path / "student")
    edit(folder / "tokenizer_config.json", lambda c: c.update(tokenizer_class="QwenTokenizer"))
    with pytest.raises(DataError, match=r"no tokenizer\.json"):  # other rules than GPT-2's
        StudentTokenizer.load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="Cannot read the tokenizer"):
        StudentTokenizer.load(folder)


def test_a_stored_truncation_is_not_applied(shared: Path, tmp_path: Path) -> None:
    folder = copy(shared, "stories", tmp_path / "student")
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    edit(folder / "tokenizer.json", lambda c: c.update(truncation=cut))
    assert len(StudentTokenizer.load(folder).encode_text("one two three four five six")) > 4


# --- tokens without embeddings ---


@pytest.fixture
def grown(tmp_path: Path) -> Path:
    """The quickstart's student, whose tokenizer was given tokens that its 768 embeddings were not given."""
    folder = tmp_path / "student"
    shutil.copytree(STUDENT, folder)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<tool>"])
    tokenizer.add_tokens(["<doc>"])
    assert (tokenizer.token_to_id("<tool>"), tokenizer.token_to_id("<doc>")) == (768, 769)
    tokenizer.save(str(path))
    return folder


def test_a_token_without_an_embedding_is_text_like_any_other(grown: Path) -> None:
    tokenizer = StudentTokenizer.load(grown)
    assert tokenizer.beyond == ("<tool>", "<doc>")
    for text in ("a <tool> b", "<doc>"):
        ids = tokenizer.encode_text(text)
        assert max(ids) < 768
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode_answer(ids, "<tool>")[:-1] == StudentTokenizer.load(STUDENT).encode_text("<tool>")
    assert StudentTokenizer.load(STUDENT).beyond == ()


def test_a_beginning_of_text_without_an_embedding_is_refused(grown: Path) -> None:
    path = grown / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<tool>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<tool>": {"id": "<tool>", "ids": [768], "tokens": ["<tool>"]}},
    }
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="begins every text with id 768, and the model's embeddings have 768 rows"):
        StudentTokenizer.load(grown)


def test_without_weights_the_tokenizer_is_as_it_is(grown: Path) -> None:
    (grown / "model.safetensors").unlink()
    tokenizer = StudentTokenizer.load(grown)
    assert tokenizer.beyond == ()
    assert tokenizer.encode_text("<doc>") == (769,)


def test_a_template_that_is_no_text_is_refused(grown: Path) -> None:
    path = grown / "chat_template.jinja"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(DataError, match="a Git LFS pointer"):
        StudentTokenizer.load(grown)
    path.write_bytes("{{ 'ü' }}".encode("latin-1"))
    with pytest.raises(DataError, match=r"Cannot read .*chat_template\.jinja"):
        StudentTokenizer.load(grown)


def test_a_tokenizer_that_is_a_web_page_is_named(grown: Path) -> None:
    (grown / "tokenizer.json").write_text("<!doctype html>")
    with pytest.raises(DataError, match=r"tokenizer\.json is a web page"):
        StudentTokenizer.load(grown)

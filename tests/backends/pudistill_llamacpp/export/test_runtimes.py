"""What Ollama, llama-server and LM Studio are given says to the model what the checkpoint's own template says."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.types import Message, Sampling
from pudistill_llamacpp.runtimes.beside import Prompting, write_runtime_files
from pudistill_llamacpp.runtimes.families import FAMILIES, Family
from pudistill_llamacpp.runtimes.go_template import go_template
from pudistill_llamacpp.runtimes.recognise import Dialect, recognise
from pudistill_llamacpp.runtimes.server_line import template_variables
from tests.backends.pudistill_llamacpp.export.chat_templates import (
    REAL,
    SPECIAL,
    UNKNOWN,
    WRITTEN,
    of_tokenizer,
    real,
    written,
)
from tests.tiny import STUDENT

Render = Callable[[str, Sequence[Sequence[Message]]], list[str]]

_TURNS = (
    Message("user", 'Print {{ .System }} and """ in Go,\n\n\tplease: 你好 🙂'),
    Message("assistant", "fmt.Println(`{{ .System }}`)  // {%raw%}"),
    Message("user", "Thanks!  Two   spaces?"),
    Message("assistant", "Yes."),
    Message("user", "x"),
)
"""Other words than those by which a family is recognised."""
_WITHOUT = [list(_TURNS[:n]) for n in (1, 3, 5)]
CONVERSATIONS = _WITHOUT + [[Message("system", "Be brief.\nNo {{ braces }}."), *turns] for turns in _WITHOUT]
VARIABLES = {"enable_thinking": False}


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Go's own text/template, called as Ollama calls it."""
    if shutil.which("go") is None:
        pytest.skip("needs Go (Debian: golang-go)")
    folder = tmp_path_factory.mktemp("go")
    program, source = folder / "render", Path(__file__).parent / "go" / "render.go"
    environment = os.environ | {"GOCACHE": str(folder / "cache")}  # Go refuses to build without a home or a cache
    subprocess.run(["go", "build", "-o", str(program), str(source)], check=True, timeout=300, env=environment)

    def render(template: str, conversations: Sequence[Sequence[Message]]) -> list[str]:
        messages = [[{"Role": m.role, "Content": m.content} for m in c] for c in conversations]
        stdin = json.dumps({"Template": template, "Conversations": messages})
        ended = subprocess.run([str(program)], input=stdin, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(ended.stdout)

    return render


def same(go: Render, template: ChatTemplate, family: str, *, adds_bos: bool) -> None:
    """The template is of that family, and Go gives what Jinja gives, but for a BOS that the runtime adds itself."""
    dialect = recognise(template, VARIABLES, adds_bos=adds_bos)
    assert dialect is not None
    assert dialect.family.name == family
    compared = 0
    for conversation, prompt in zip(CONVERSATIONS, go(go_template(dialect), CONVERSATIONS), strict=True):
        try:
            wanted = template.render(conversation, answer_follows=True, **VARIABLES)
        except DataError:
            assert conversation[0].role == "system"
            continue
        assert prompt == (wanted.removeprefix(template.special["bos_token"]) if adds_bos else wanted)
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("family", WRITTEN)
def test_go_renders_what_jinja_renders(family: str, adds_bos: bool, go: Render) -> None:
    same(go, written(family), family, adds_bos=adds_bos)


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", REAL)
def test_go_renders_what_real_templates_render(name: str, adds_bos: bool, go: Render, upstream: Path) -> None:
    same(go, real(upstream, name), REAL[name], adds_bos=adds_bos)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "qwen2.5-0.5b-instruct"])
def test_go_renders_what_real_tokenizers_render(name: str, go: Render, shared: Path) -> None:
    same(go, of_tokenizer(shared / "tokenizers" / name), "ChatML", adds_bos=False)


def test_go_renders_what_the_quickstart_renders(go: Render) -> None:
    same(go, of_tokenizer(STUDENT), "quickstart", adds_bos=False)


def test_every_family_has_a_template_here() -> None:
    assert {f.name for f in FAMILIES} == {*WRITTEN, *REAL.values(), "quickstart"}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_templates_are_not_guessed(name: str, upstream: Path) -> None:
    assert recognise(real(upstream, name), VARIABLES, adds_bos=True) is None


@pytest.mark.parametrize(
    "source",
    [
        WRITTEN["Llama 3"].replace("\\n\\n' }}{% endif %}", "\\n' }}{% endif %}"),  # the answer starts a line earlier
        WRITTEN["Mistral V1"].replace("m.content + eos_token", "m.content"),  # only seen after a second turn
        WRITTEN["plain"] + "{{ messages | length }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_small_difference_is_another_template(source: str) -> None:
    assert recognise(ChatTemplate(source, SPECIAL, written("plain").now), {}, adds_bos=False) is None


def test_thinking_is_a_setting_of_the_template(upstream: Path) -> None:
    """Qwen 3 begins the answer itself when thinking is off."""
    template = real(upstream, "Qwen-Qwen3-0.6B")
    off, on = (recognise(template, {"enable_thinking": value}, adds_bos=False) for value in (False, True))
    assert off is not None
    assert on is not None
    assert (off.answer, on.answer) == ("<think>\n\n</think>\n\n", "")


def test_literals_that_go_or_a_modelfile_would_read_otherwise(go: Render) -> None:
    odd = 'a {{ .b }} {% c """ d\u200b\\"\U000e0001 {'
    family = Family("odd", (odd, odd), (odd, odd), (odd, odd), opens=odd)
    for place in ("own", "first", "last"):
        dialect = Dialect(replace(family, place=place), starts=odd, default=odd, answer=odd)
        template = go_template(dialect)
        assert '"""' not in template
        assert all(c.isprintable() or c in "\n\t" for c in template)
        assert go(template, CONVERSATIONS) == [dialect.render(c) for c in CONVERSATIONS]


# --- files and lines ---

PROMPTING = Prompting(
    template=written("Llama 3"),
    stops=("<|eot_id|>", "</s>"),
    adds_bos=True,
    sampling=Sampling(max_new_tokens=8, temperature=0.7, top_p=0.95),
    context=2048,
)


def weights(folder: Path) -> str:
    (folder / "student-q8_0.gguf").write_bytes(b"GGUF")
    return "student-q8_0.gguf"


def test_the_modelfile(tmp_path: Path) -> None:
    files = write_runtime_files(tmp_path, weights(tmp_path), "student", PROMPTING)
    dialect = recognise(written("Llama 3"), {}, adds_bos=True)
    assert dialect is not None
    assert (files.family, files.notices) == ("Llama 3", ())
    assert (tmp_path / "Modelfile").read_text() == (
        "FROM ./student-q8_0.gguf\n"
        f'TEMPLATE """{go_template(dialect)}"""\n'
        'PARAMETER stop "<|eot_id|>"\n'
        'PARAMETER stop "</s>"\n'
        "PARAMETER temperature 0.7\n"
        "PARAMETER top_p 0.95\n"
        "PARAMETER top_k 0\n"
        "PARAMETER min_p 0\n"
        "PARAMETER repeat_penalty 1\n"
        "PARAMETER num_ctx 2048\n"
    )


def test_the_lines_to_type(tmp_path: Path) -> None:
    folder = tmp_path / "gguf q8_0"
    folder.mkdir()
    files = write_runtime_files(folder, weights(folder), "My Student!", PROMPTING)
    assert files.next_steps == (
        f"llama-server -m '{folder}/student-q8_0.gguf' -c 2048 --jinja --temp 0.7 --top-k 0 --top-p 0.95 --min-p 0",
        f"ollama create my-student -f '{folder}/Modelfile'",
        f"lms import --copy --user-repo 'pudistill/My Student!' '{folder}/student-q8_0.gguf'",
    )


def test_llama_server_is_told_what_the_recipe_told_the_template(tmp_path: Path, upstream: Path) -> None:
    """Only what the template has a word for."""
    template = real(upstream, "Qwen-Qwen3-0.6B")
    prompting = replace(PROMPTING, template=template, variables={"enable_thinking": False, "other": 1})
    files = write_runtime_files(tmp_path, weights(tmp_path), "s", prompting)
    line = shlex.split(files.next_steps[0])
    assert json.loads(line[line.index("--chat-template-kwargs") + 1]) == {"enable_thinking": False}
    assert files.notices == (
        "Training told the chat template enable_thinking = False; LM Studio has to be told so too.",
    )


@pytest.mark.parametrize(("version", "date"), [("3.1-8B", "26 Jul 2024"), ("3.2-3B", "21 Aug 2026")])
def test_the_server_writes_the_date_that_training_wrote(version: str, date: str, upstream: Path) -> None:
    """Llama 3.1's template has one of its own, 3.2's asks the clock of the run."""
    template = real(upstream, f"meta-llama-Llama-{version}-Instruct")
    assert template_variables(template, VARIABLES) == {"date_string": date}
    assert template_variables(template, {"date_string": "today"}) == {"date_string": "today"}


def test_lm_studio_finds_the_file_three_folders_deep(tmp_path: Path) -> None:
    name = weights(tmp_path)
    write_runtime_files(tmp_path, name, "student", PROMPTING)
    (file,) = (tmp_path / "lmstudio").rglob("*.gguf")
    assert file.relative_to(tmp_path / "lmstudio").parts == ("pudistill", "student", name)
    assert file.samefile(tmp_path / name)  # no second copy on the disk


def test_a_file_system_without_hard_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    write_runtime_files(tmp_path, weights(tmp_path), "student", PROMPTING)
    (file,) = (tmp_path / "lmstudio").rglob("*.gguf")
    assert file.read_bytes() == b"GGUF"


def test_an_adapter_goes_on_top_of_the_student_as_it_was(tmp_path: Path) -> None:
    files = write_runtime_files(tmp_path, "/models/base.gguf", "student", PROMPTING, adapter="student-lora.gguf")
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM /models/base.gguf", "ADAPTER ./student-lora.gguf"]
    assert f"-m /models/base.gguf -c 2048 --jinja --lora {tmp_path}/student-lora.gguf" in files.next_steps[0]
    assert not any("lms" in line for line in files.next_steps)
    assert not (tmp_path / "lmstudio").exists()


def test_no_template_line_for_an_unknown_template(tmp_path: Path) -> None:
    prompting = replace(PROMPTING, template=ChatTemplate("{{ messages[0].content }}|", {}, written("plain").now))
    files = write_runtime_files(tmp_path, weights(tmp_path), "student", prompting)
    assert files.family is None
    assert "TEMPLATE" not in (tmp_path / "Modelfile").read_text()
    assert "no TEMPLATE line" in files.notices[0]


def test_bare_text_stays_bare(tmp_path: Path, go: Render) -> None:
    write_runtime_files(tmp_path, weights(tmp_path), "student", replace(PROMPTING, template=None))
    text = (tmp_path / "Modelfile").read_text()
    template = text.split('"""')[1]
    assert go(template, [[Message("user", "Once upon a time")]]) == ["Once upon a time"]

"""Prompts: keys of their content, and sets that depend on it alone."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.prompts import (
    Prompt,
    PromptFile,
    given_prompts,
    prompt_key,
    refuse_leaks,
    split_prompts,
)
from pudistill_cli.types import Message


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def made(*texts: str, source: str = "a.jsonl") -> tuple[Prompt, ...]:
    return tuple(Prompt(prompt_key(user(t)), user(t), "", None, source, i) for i, t in enumerate(texts, start=1))


# --- keys ---


def test_the_key_is_the_hash_of_the_canonical_json() -> None:
    canonical = '["chat",[["system","s"],["user","ü \\"x\\""]]]'
    expected = blake2b(canonical.encode(), digest_size=16).hexdigest()
    assert prompt_key((Message("system", "s"), Message("user", 'ü "x"'))) == expected


def test_the_key_tells_format_roles_and_boundaries_apart() -> None:
    keys = {
        prompt_key(user("ab")),
        prompt_key(user("ab"), "text"),
        prompt_key((Message("assistant", "ab"),)),
        prompt_key((Message("user", "a"), Message("user", "b"))),
    }
    assert len(keys) == 4


# --- sets ---


def membership(prompts: tuple[Prompt, ...]) -> dict[str, str]:
    sets = split_prompts(prompts, dev_share=0.2, test_share=0.3)
    assert all(p.split == "dev" for p in sets.dev)
    return {p.key: p.split for part in (sets.train, sets.dev, sets.test) for p in part}


def test_a_prompts_set_does_not_depend_on_the_others() -> None:
    prompts = made(*(f"prompt {i}" for i in range(400)))
    everything = membership(prompts)
    assert len(everything) == 400
    assert membership(tuple(reversed(prompts))) == everything
    fewer = membership(prompts[::3])
    assert fewer == {key: everything[key] for key in fewer}


def test_the_shares_are_met_in_expectation() -> None:
    sets = split_prompts(made(*(f"prompt {i}" for i in range(2000))), dev_share=0.2, test_share=0.3)
    # Four binomial standard deviations: 4 sqrt(2000 x 0.2 x 0.8) = 72, and 82 for 0.3.
    assert abs(len(sets.dev) - 400) < 72
    assert abs(len(sets.test) - 600) < 82


def test_an_empty_set_is_said_and_an_empty_train_set_is_refused() -> None:
    sets = split_prompts(made("only"), dev_share=0.0, test_share=1e-9)
    assert len(sets.train) == 1
    assert sets.notices == ("The split left the test set empty (1 prompt, share 1e-09).",)
    with pytest.raises(DataError, match="No prompt is left to train on"):
        split_prompts(made("only"), dev_share=0.0, test_share=1.0)


def test_given_files_become_sets_with_their_notices() -> None:
    files = {
        "train": PromptFile(made("a", "b"), ("one",)),
        "dev": PromptFile(made("c")),
        "test": PromptFile(made("d"), ("two",)),
        "reworded": PromptFile(made("e", "d")),
    }
    sets = given_prompts(files)
    assert [p.split for p in sets.train] == ["train", "train"]
    assert [p.split for p in sets.extra["reworded"]] == ["reworded", "reworded"]  # test sets may overlap
    assert sets.notices == ("one", "two")
    assert [p.messages[0].content for p in sets.asked] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("a", "b"), [("train", "dev"), ("train", "test"), ("dev", "test"), ("train", "more")])
def test_a_prompt_in_two_sets_is_named(a: str, b: str) -> None:
    names = ("train", "dev", "test", "more")
    files = {name: PromptFile(made(name, source=f"{name}.jsonl")) for name in names}
    files[b] = PromptFile(made("first", a, source=f"{b}.jsonl"))
    with pytest.raises(DataError, match=rf"1 prompt in two sets.*\n  {a}\.jsonl:1 \({a}\) = {b}\.jsonl:2"):
        given_prompts(files)


def test_a_leak_into_a_further_test_set_is_found_after_a_split() -> None:
    sets = split_prompts(made("a", "b", "c"), dev_share=0.0, test_share=0.0)
    with pytest.raises(DataError, match="in two sets"):
        refuse_leaks(replace(sets, extra={"other": made("b")}))

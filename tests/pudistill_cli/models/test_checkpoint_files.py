"""Which files are a checkpoint's weights: one answer, or none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.errors import DataError
from pudistill_cli.models.checkpoint_files import INDEX, read_json, safetensors_header, weight_files

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def save(folder: Path, name: str, *tensors: str) -> None:
    save_file({tensor: np.full(2, len(tensor), np.float32) for tensor in tensors}, folder / name)


def index(folder: Path, **places: str) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with their index. Its total_size is wrong: nobody reads it."""
    save(tmp_path, A, "x", "y")
    save(tmp_path, B, "z")
    index(tmp_path, x=A, y=A, z=B)
    return tmp_path


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(DataError) as error:
        weight_files(folder)
    for word in words:
        assert word in error.value.message
    assert error.value.hint


def test_shards_with_their_index_and_what_no_reader_takes_for_weights(folder: Path) -> None:
    save(folder, "consolidated.safetensors", "x")
    save(folder, "adapter_model.safetensors", "x")
    assert [path.name for path in weight_files(folder)] == [A, B]


def test_a_single_file_with_or_without_an_index_of_it(tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors", "x")
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]
    index(tmp_path, x="model.safetensors")
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]


def test_a_single_file_beside_an_index_of_others_has_two_readings(folder: Path) -> None:
    """transformers takes model.safetensors, mlx-lm both."""
    save(folder, "model.safetensors", "x", "y", "z")
    refused(folder, "model.safetensors beside model.safetensors.index.json", "depends on who reads it")
    for name in (A, B):
        (folder / name).unlink()  # stale: what it names is gone
    refused(folder, "model.safetensors beside model.safetensors.index.json")


def test_a_single_file_beside_shards_without_an_index_has_two_readings(folder: Path) -> None:
    (folder / INDEX).unlink()
    refused(folder, "several .safetensors files and no model.safetensors.index.json")
    save(folder, "model.safetensors", "x", "y", "z")
    refused(folder, f"model.safetensors and {A}, and no model.safetensors.index.json")


def test_a_shard_that_the_index_does_not_name(folder: Path) -> None:
    save(folder, "model-00003-of-00003.safetensors", "w")
    refused(folder, "model-00003-of-00003.safetensors, which model.safetensors.index.json does not name")


def test_shards_that_are_missing_are_named(folder: Path) -> None:
    (folder / B).unlink()
    refused(folder, "names weights that are not there", B)
    index(folder)
    refused(folder, "none at all")
    (folder / INDEX).write_text(json.dumps({"weight_map": [A]}))
    refused(folder, "none at all")


def test_an_index_of_other_weights(folder: Path) -> None:
    index(folder, x=A, y=B, z=B)
    refused(folder, f"y should be in {B}, and is in {A}")
    index(folder, x=A, y=A, z=B, w=B)
    refused(folder, f"w should be in {B}, and is nowhere")
    index(folder, x=A, z=B)
    refused(folder, f"y should be nowhere, and is in {A}")


def test_a_tensor_in_two_shards(folder: Path) -> None:
    save(folder, B, "z", "x")
    refused(folder, f"the tensor x in both {A} and {B}")


def test_the_only_file_must_have_the_name_that_readers_look_for(tmp_path: Path) -> None:
    save(tmp_path, "weights.safetensors", "x")
    refused(tmp_path, "weights.safetensors; transformers reads model.safetensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><title>Not found</title>", "is a web page"),
        (b"GGUF\x03\0\0\0" + b"\0" * 64, "is a GGUF file"),
        (b"", "not a whole safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a whole safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        safetensors_header(path)


def test_a_config_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(DataError, match="it is a Git LFS pointer") as error:
        read_json(tmp_path / "config.json")
    assert "git lfs pull" in error.value.hint


def test_half_a_shard_is_cut_off(folder: Path) -> None:
    (folder / B).write_bytes((folder / B).read_bytes()[:-2])
    refused(folder, "was cut off")
    assert set(load_file(folder / A)) == {"x", "y"}


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "sub/../../outside.safetensors", "sub/../model-1.safetensors", "..\\outside.safetensors",
     "C:outside.safetensors", "\\outside.safetensors", "\0"],
)  # fmt: skip
def test_an_index_names_no_file_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save(tmp_path, "outside.safetensors", "x")
    index(folder, x=name)
    refused(folder, INDEX, "not in its folder")


def test_nor_by_an_absolute_path_or_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save(tmp_path, "outside.safetensors", "x")
    index(folder, x=str(tmp_path / "outside.safetensors"))
    refused(folder, "not in its folder")
    (folder / A).symlink_to("../outside.safetensors")
    index(folder, x=A)
    refused(folder, A, "not in its folder")
    (folder / "up").symlink_to("..")
    index(folder, x="up/outside.safetensors")
    refused(folder, "not in its folder")


def test_an_index_may_name_a_folder_below_and_links_within(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save(folder / "sub", "x.safetensors", "x")
    index(folder, x="sub/x.safetensors")
    assert weight_files(folder) == (folder / "sub" / "x.safetensors",)
    (folder / A).symlink_to("sub/x.safetensors")
    index(folder, x=A)
    assert weight_files(folder) == (folder / A,)
    (tmp_path / "link").symlink_to(folder)
    assert weight_files(tmp_path / "link") == (tmp_path / "link" / A,)


def test_in_the_hub_s_cache_files_are_links_to_the_repository_s_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    folder = repository / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    save(repository / "blobs", "abcd", "x")
    (folder / A).symlink_to("../../blobs/abcd")
    index(folder, x=A)
    assert weight_files(folder) == (folder / A,)
    save(tmp_path, "outside", "x")
    (folder / A).unlink()
    (folder / A).symlink_to("../../../outside")
    refused(folder, "not in its folder")

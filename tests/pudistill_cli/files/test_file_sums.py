from hashlib import sha256

from pudistill_cli.files.file_sums import file_sum, folder_sums, sum_of

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""Of the three bytes "abc": the first example of FIPS 180-2."""


def test_a_files_sum_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")

    assert file_sum(tmp_path / "a") == sum_of(tmp_path / "a") == ABC


def test_a_folders_sums_name_every_file_below_it(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "d").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")

    assert folder_sums(tmp_path) == {"a": sha256(b"").hexdigest(), "b/c/d": ABC}


def test_a_folders_one_sum_tells_names_and_bytes_apart(tmp_path):
    def folder(name, **files):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        return sum_of(tmp_path / name)

    same = folder("one", a="x", b="y")

    assert folder("two", b="y", a="x") == same
    assert folder("three", a="y", b="x") != same
    assert folder("four", a="x") != same
    assert folder("five", a="x", c="y") != same

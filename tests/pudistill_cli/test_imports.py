"""The core imports no ML framework, and nothing but the registry imports a backend."""

from __future__ import annotations

import subprocess
import sys

import grimp
import pytest

FRAMEWORKS = ("torch", "mlx", "llama_cpp", "transformers", "peft")


PACKAGES = ("pudistill_cli", "pudistill_torch", "pudistill_mlx", "pudistill_llamacpp")


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Every import between our modules, lazy and type-only ones too."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)


def test_no_module_imports_itself_in_a_circle(imports: grimp.ImportGraph) -> None:
    assert "pudistill_cli.types" in imports.find_modules_directly_imported_by("pudistill_torch.decoding")
    circles = [
        (importer, imported)
        for importer in sorted(imports.modules)
        for imported in sorted(imports.find_modules_directly_imported_by(importer))
        if imports.find_shortest_chain(importer=imported, imported=importer) is not None
    ]
    assert circles == []


def loaded_after(code: str) -> set[str]:
    """The frameworks in `sys.modules` of a fresh interpreter that ran `code`."""
    report = f"import sys; print(' '.join(m for m in {FRAMEWORKS} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_no_framework() -> None:
    code = """
from pudistill_cli.app import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
"""
    assert loaded_after(code) == set()


def test_listing_every_backend_loads_no_framework() -> None:
    code = """
from pudistill_cli.backend_api.registry import backends
found = backends()
assert "torch" in found
for backend in found.values():
    backend.problem(), backend.capabilities, backend.architectures()
"""
    assert loaded_after(code) == set()


def test_a_dry_run_loads_only_what_it_asks(tmp_path: object) -> None:
    code = f"""
import os; os.chdir({str(tmp_path)!r})
from pudistill_cli.app import main
try:
    main(["run", "quickstart", "--dry-run"])
except SystemExit as end:
    assert end.code == 0, end.code
"""
    # `describe` may look at the device, and `refusal` asks transformers whether it has a place for every weight.
    assert loaded_after(code) <= {"torch", "transformers"}


def test_the_probe_sees_a_framework() -> None:
    assert loaded_after("import transformers") >= {"transformers"}

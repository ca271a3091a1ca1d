"""What is known of the backend before a weight is read, and that none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import mlx.core as mx
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from pudistill_cli.backend_api.contract import Backend
from pudistill_cli.backend_api.exporter import Exporter
from pudistill_mlx import backend
from tests.backends.pudistill_mlx.small import spec_of
from tests.tiny import ROOT, STUDENT

MAC = {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin", "os_name": "posix"}
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}
FRAMEWORKS = {"torch", "transformers", "peft", "mlx-lm", "llama-cpp-python"}

WITHOUT_TORCH = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ("torch", "peft") else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def test_it_is_a_backend_with_exports_and_can_run_here() -> None:
    assert isinstance(backend, Backend)
    assert isinstance(backend, Exporter)
    assert backend.problem() is None


def test_problem_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pudistill_mlx.mlx_backend.find_spec", lambda name: None if name == "mlx_lm" else object())
    assert backend.problem() == 'mlx-lm not installed; pip install "pudistill[mlx]"'


def test_architectures_are_the_models_of_mlx_lm() -> None:
    """Each name gives a model class; files that are none, such as those of activations, do not."""
    from mlx_lm.utils import MODEL_REMAPPING, _get_classes

    names = backend.architectures()
    assert names is not None
    assert {"llama", "mistral", "qwen3", "gemma3_text", "phi3", "smollm3", *MODEL_REMAPPING} <= names
    assert not names & {"activations", "rope_utils", "cache", "base", "switch_layers"}
    for name in names - {"olmo"}:  # whose file ends the process where a package is missing
        model, arguments = _get_classes({"model_type": name})
        assert callable(model)
        assert callable(arguments.from_dict)


def test_describe_resolves_every_setting() -> None:
    on_gpu = mx.is_available(mx.gpu)
    expected = {"device": "gpu", "dtype": "bfloat16"} if on_gpu else {"device": "cpu", "dtype": "float32"}
    assert backend.describe(spec_of(device="auto", dtype="auto")) == expected
    assert backend.describe(spec_of(dtype="bfloat16")) == {"device": "cpu", "dtype": "bfloat16"}


# --- without torch ---


def installed_by_default(environment: dict[str, str]) -> set[str]:
    """The frameworks among the dependencies of a plain `pip install pudistill`."""
    requirements = [Requirement(text) for text in requires("pudistill") or []]
    marked = default_environment() | environment | {"extra": ""}
    wanted = {r.name for r in requirements if r.marker is None or r.marker.evaluate(marked)}  # type: ignore[arg-type]
    return wanted & FRAMEWORKS


def test_a_plain_installation_on_a_mac_needs_no_torch() -> None:
    assert installed_by_default(MAC) == {"mlx-lm"}
    assert installed_by_default(LINUX) == {"torch", "transformers", "peft"}
    assert installed_by_default(MAC | {"platform_machine": "x86_64"}) == {"torch", "transformers", "peft"}


def without_torch(code: str, folder: Path) -> str:
    """What code prints in an interpreter in which torch and peft are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_block_works(tmp_path: Path) -> None:
    code = "\ntry:\n    import torch\nexcept ModuleNotFoundError as error:\n    print(error)\n"
    assert without_torch(code, tmp_path) == "No module named 'torch'\n"


def test_every_module_of_core_and_backend_is_imported_without_torch(tmp_path: Path) -> None:
    code = """
import pudistill_cli, pudistill_mlx
count = 0
for package in (pudistill_cli, pudistill_mlx):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
assert "mlx.core" in sys.modules and "torch" not in sys.modules
print(count)
"""
    files = [*(ROOT / "pudistill_cli").rglob("*.py"), *(ROOT / "backends" / "pudistill_mlx").rglob("*.py")]
    expected = len([f for f in files if f.name != "__main__.py"]) - 2  # the packages themselves are imported above
    assert int(without_torch(code, tmp_path)) == expected


def test_an_engine_samples_and_scores_without_torch(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from pudistill_cli.backend_api.contract import Continuations, ModelSpec, PromptTokens, Sampling
from pudistill_cli.backend_api.registry import backends
backend = backends()["mlx"]
engine = backend.open(ModelSpec(Path({str(STUDENT)!r}), (1,), 128, device="cpu", dtype="float32"))
prompt = engine.encode("call Anna")
((_, group),) = engine.sample([PromptTokens("key", prompt)], 3, Sampling(8), None)
((_, scored),) = engine.logprobs([Continuations(prompt, tuple(c.tokens for c in group))], None)
print(max(abs(a - b).max() for a, b in zip(scored, (c.logprobs for c in group))) < 1e-4, len(group))
assert "torch" not in sys.modules and "peft" not in sys.modules
"""
    assert without_torch(code, tmp_path) == "True 3\n"

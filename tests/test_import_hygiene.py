"""What importing may not do, and the one name that must never become a package of ours."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("tte_runtime", "kernels", "tests", "benchmarks", "docs")


def python(program: str) -> str:
    """stdout of a fresh Python whose working directory is the repository's root."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = str(ROOT / "kernels")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_folder_called_kernels_is_a_package() -> None:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("kernels/__init__.py")]
    assert not found, "transformers imports a package called kernels; one of ours would hide it"
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_nothing_of_ours_imports_kernels() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert "kernels" not in {name.split(".")[0] for name in names}, f"{path}:{node.lineno}"


def test_only_the_seam_imports_tte_kernels() -> None:
    for path in (ROOT / "tte_runtime").rglob("*.py"):
        if "ops" not in path.parts:
            assert "tte_kernels" not in imports(path), f"{path} goes past tte_runtime/ops"


def test_the_kernels_import_nothing_of_the_runtime() -> None:
    allowed = {"torch", "triton", "tte_kernels", *sys.stdlib_module_names}
    for path in (ROOT / "kernels" / "tte_kernels").rglob("*.py"):
        assert imports(path) <= allowed, f"{path}: {imports(path) - allowed}"


def imports(path: Path) -> set[str]:
    """Top-level names of what a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.fixture(scope="module")
def after_import() -> dict[str, Any]:
    """What a fresh Python in our root has loaded once the door is open and transformers' models are imported."""
    program = (
        "import sys, json\n"
        "from tte_runtime import Embedder\n"
        "import torch\n"
        "cuda, modules = torch.cuda.is_initialized(), list(sys.modules)\n"
        "import transformers.modeling_utils\n"
        "from transformers.utils import is_kernels_available\n"
        "is_kernels_available()\n"
        "kernels = getattr(sys.modules.get('kernels'), '__file__', None)\n"
        "print(json.dumps({'cuda': cuda, 'modules': modules, 'kernels': kernels}))"
    )
    return json.loads(python(program))


def test_transformers_finds_its_own_kernels_from_our_root(after_import: dict[str, Any]) -> None:
    assert not (after_import["kernels"] or "").startswith(str(ROOT))


def test_importing_the_door_touches_no_device_and_no_kernel(after_import: dict[str, Any]) -> None:
    assert after_import["cuda"] is False
    ours = [name for name in after_import["modules"] if name.startswith("tte_kernels")]
    assert not [name for name in ours if name.endswith(".kernel")]


def test_importing_the_package_and_its_command_line_leaves_torch_alone() -> None:
    loaded = json.loads(python("import sys, json, tte_runtime, tte_runtime.cli; print(json.dumps(list(sys.modules)))"))
    assert not {"torch", "transformers", "triton", "tte_kernels"} & set(loaded)


def test_the_package_holds_what_it_needs_and_nothing_else() -> None:
    """What setup.py would pack, asked of setuptools itself: a build would need the network."""
    pytest.importorskip("setuptools", reason="the environment's pip builds in an environment of its own")
    program = (
        "import json, setuptools\n"
        "from setuptools.dist import Distribution\n"
        "given = {}\n"
        "setuptools.setup = lambda **options: given.update(options)\n"
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': 'setup'})\n"
        "command = Distribution(given).get_command_obj('build_py')\n"
        "command.ensure_finalized()\n"
        "files = [(package, name) for package, _, _, names in command.data_files for name in names]\n"
        "print(json.dumps([given['packages'], files]))"
    )
    packages, files = json.loads(python(program))
    assert {package.split(".")[0] for package in packages} == {"tte_runtime", "tte_kernels"}
    packed = {f"{package.replace('.', '/')}/{name}" for package, name in files}
    needed = {
        "tte_runtime/py.typed",
        "tte_runtime/checkpoints/tte-tiny/model.safetensors",
        "tte_runtime/scenes/pictures/ATTRIBUTION.md",
        "tte_runtime/demo/templates/page.html",
    }
    assert needed <= packed, f"package_data misses {sorted(needed - packed)}"
    ours = [path for path in (ROOT / "tte_runtime").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    data = {path.relative_to(ROOT).as_posix() for path in ours if path.suffix != ".py"}
    assert packed == data, "every file of the package that is no module is packed, and no other"

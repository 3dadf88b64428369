"""The arrows of the design: which package may import which, and what stays free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("models", "heads", "service", "training", "commands", "hrpose")

ALLOWED = {
    "models": {"models"},
    "heads": {"heads", "models"},
    "service": {"service", "heads", "models"},
    "training": {"training", "heads", "models"},
    "commands": {"commands", "service", "training", "heads", "models"},
}

TORCH_FREE = (
    "heads.skeleton",
    "heads.geometry",
    "heads.image",
    "heads.codec",
    "heads.center_codec",
    "heads.spec",
    "heads.suppression",
    "heads.zoo",
    "heads.onnx_file",
    "heads.graphs",
    "service.v2",
    "service.inference.pipeline",
    "service.inference.engine",
    "service.inference.exports",
    "service.inference.loading",
    "service.inference.runtime",
    "service.inference.estimator",
    "service.app",
    "training.labelling",
    "hrpose",
)


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, wherever the statement stands in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide arrows"
            found.add(node.module or "")
            # `from heads import zoo` names a module only in its second half.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package} has no files"
    return files


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_the_layers_below(package: str) -> None:
    for path in files_of(package):
        layers = {name.split(".")[0] for name in imports_of(path)} & set(LAYERS)
        assert layers <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {layers}"


def test_inference_imports_no_web_framework() -> None:
    for path in files_of("service/inference"):
        tops = {name.split(".")[0] for name in imports_of(path)}
        assert not tops & {"fastapi", "starlette", "uvicorn"}, path


def test_only_the_image_module_decodes_or_encodes_images() -> None:
    for package in ALLOWED:
        for path in files_of(package):
            text = path.read_text(encoding="utf-8")
            if path.relative_to(ROOT) != Path("heads/image.py"):
                assert "imdecode" not in text, path
                assert "imread(" not in text, path
                assert "BGR2RGB" not in text, path


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; raise SystemExit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0, f"{module} imports torch"


def test_the_front_door_is_imported_by_nothing() -> None:
    for package in ALLOWED:
        for path in files_of(package):
            assert "hrpose" not in {name.split(".")[0] for name in imports_of(path)}, path

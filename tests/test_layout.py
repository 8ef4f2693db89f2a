"""Who may import whom, read from the source: the shape of the house stays as it was drawn."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "launch": {"webui", "weights", "samplers"},
    "webui": {"weights", "samplers"},
    "weights": {"samplers"},
    "training": {"weights", "samplers"},
    "benchmarks": {"webui", "weights", "samplers"},
    "plugins": {"samplers"},
    "samplers": set(),
}
# Inside webui. What is not in a folder (app, page, replay_command) puts the parts together and may import all of them.
FOLDERS = {
    "core": set(),
    "templates": set(),
    "importers": {"core"},
    "engine": {"core"},
    "gradio_ext": {"core", "templates"},
    "api": {"core", "importers", "engine", "gradio_ext", "templates"},
    "tabs": {"core", "importers", "engine", "gradio_ext", "templates"},
}
WITH_GRADIO = {"api", "gradio_ext", "tabs"}
# What tabs have in common; any other folder of tabs/ is one tab.
SHARED_BY_TABS = "form"
# These run before anything is installed.
EARLY = ["webui/__init__.py", "webui/environment.py", "webui/settings.py", "webui/command_line.py"]


def sources(part: str) -> list[Path]:
    return [ROOT / "launch.py"] if part == "launch" else sorted((ROOT / part).rglob("*.py"))


@functools.cache
def imports(path: Path, whole: bool = True) -> tuple[tuple[str, str], ...]:
    """(module, name) of every import, also inside functions if `whole`; relative ones with their full module name."""
    return tuple(_imports(path, whole))


def _imports(path: Path, whole: bool) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text("utf-8"))
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree) if whole else tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from ((module, alias.name) for alias in node.names)


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_parts_import_only_what_they_may(part):
    allowed = MAY_IMPORT[part] | {part}
    for path in sources(part):
        used = {top(module) for module, _ in imports(path)} & set(MAY_IMPORT)
        assert used <= allowed, f"{path.relative_to(ROOT)} imports {', '.join(used - allowed)}"


def test_samplers_need_only_their_own_dependencies():
    allowed = {"samplers", "torch", "torchsde", "numpy", "pluggy", *sys.stdlib_module_names}
    for path in sources("samplers"):
        used = {top(module) for module, _ in imports(path)}
        assert used <= allowed, f"{path.name} imports {', '.join(used - allowed)}"


def test_plugins_use_only_public_names():
    tree = ast.parse((ROOT / "samplers" / "__init__.py").read_text("utf-8"))
    public = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    # The tests of the example package use the test kit, as its users' tests will.
    for path in (path for path in sources("plugins") if "tests" not in path.parts):
        for module, name in imports(path):
            assert top(module) != "plugins", f"{path.name} imports another plugin"
            if top(module) == "samplers":
                assert module == "samplers" and name in {"", *public}, f"{path.name} imports {module}.{name}"


def test_only_the_page_imports_gradio():
    for part in MAY_IMPORT.keys() - {"webui"}:
        for path in sources(part):
            assert "gradio" not in {top(module) for module, _ in imports(path)}, path


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_inside_webui_go_one_way(folder):
    allowed = FOLDERS[folder] | {folder}
    for path in sorted((ROOT / "webui" / folder).rglob("*.py")):
        names = [module.split(".") for module, _ in imports(path) if module.startswith("webui.")]
        used = {parts[1] for parts in names if (ROOT / "webui" / parts[1]).is_dir()}
        assert used <= allowed, f"{path.relative_to(ROOT)} imports {', '.join(used - allowed)}"
        others = {parts[1] for parts in names} - used - {"settings", "environment"}
        assert not others, f"{path.relative_to(ROOT)} imports {', '.join(others)}, which stands above it"


def test_a_tab_knows_no_other_tab():
    tabs = ROOT / "webui" / "tabs"
    for path in sorted(tabs.rglob("*.py")):
        own = path.relative_to(tabs).parts[0].removesuffix(".py")
        for module, _ in imports(path):
            other = module.removeprefix("webui.tabs.").split(".")[0] if module.startswith("webui.tabs.") else own
            assert other in (own, SHARED_BY_TABS), f"{path.relative_to(ROOT)} imports {module}"


def test_gradio_stays_in_its_folders():
    for folder in FOLDERS.keys() - WITH_GRADIO:
        for path in sorted((ROOT / "webui" / folder).rglob("*.py")):
            assert "gradio" not in {top(module) for module, _ in imports(path)}, path


def test_no_two_modules_share_a_name():
    places = {}
    for part in ("samplers", "weights", "webui"):
        for path in sources(part):
            if path.stem != "__init__":
                places.setdefault(path.stem, []).append(str(path.relative_to(ROOT)))
    twice = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert not twice


def test_early_files_need_only_the_standard_library():
    early = {name.removesuffix(".py").replace("/", ".") for name in EARLY}
    for name in EARLY:
        for module, _ in imports(ROOT / name):
            assert module in early or top(module) in sys.stdlib_module_names, f"{name} imports {module}"
    for module, _ in imports(ROOT / "launch.py", whole=False):
        assert top(module) in sys.stdlib_module_names, f"launch.py imports {module}"
    assert not (imports(ROOT / "webui" / "__init__.py"))


def test_files_name_no_path_of_one_machine():
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    pattern = re.compile(rb"(?<![\w.*-])/(?:home|root|work)/|[A-Z]:\\+Users\\")
    for path in (ROOT / name for name in names if name):
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found = pattern.search(content)
            assert not found, f"{path.relative_to(ROOT)} contains {found[0].decode()}"

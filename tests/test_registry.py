"""Finding plugins: one that cannot be used is listed with its source and its reason, and all the others load."""

import hashlib
import re
import sys
import textwrap
from pathlib import Path

import pytest
from oracles import PLUGINS

from samplers.registry import Registry, discover
from samplers.sampler import Sampler, Schedule

GOOD = """
    from itertools import pairwise
    from samplers import Step, hookimpl, sampler

    @sampler("{name}", version="{version}")
    def walk(denoise, x, sigmas, noise):
        for sigma, lower in pairwise(sigmas):
            denoised = denoise(x, sigma)
            x = denoised + lower / sigma * (x - denoised)
            yield Step(x, lower, denoised)

    @hookimpl
    def register_samplers():
        return [walk]
"""

# What is wrong with a plugin, its source, and what its reason has to tell.
BROKEN = {
    "needs_a_package": (
        "import a_package_that_is_not_here",
        "ModuleNotFoundError: No module named 'a_package_that_is_not_here'",
    ),
    "raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "no_python": ("def broken(:", "SyntaxError: invalid syntax"),
    "exits": ("import sys\nsys.exit('no licence')", "SystemExit.*no licence"),
    "quits": ("raise SystemExit", "SystemExit"),
    "no_hook": (
        "x = 1",
        "implements no hook; it needs @hookimpl on register_samplers or register_schedules or register_guidances",
    ),
    "unmarked": ("def register_samplers():\n    return []", "implements no hook"),
    "misspelt": (
        "from samplers import hookimpl\n@hookimpl\ndef register_sampler():\n    return []",
        "unknown hook 'register_sampler'",
    ),
    "hook_raises": (
        "from samplers import hookimpl\n@hookimpl\ndef register_samplers():\n    raise KeyError('x')",
        "KeyError: 'x'",
    ),
    "hook_exits": (
        "from samplers import hookimpl\n@hookimpl\ndef register_samplers():\n    raise SystemExit(3)",
        "SystemExit.*3",
    ),
    "returns_nothing": (
        "from samplers import hookimpl\n@hookimpl\ndef register_samplers():\n    pass",
        "TypeError.*NoneType",
    ),
    "returns_one": (
        GOOD.format(name="One", version="1").replace("[walk]", "walk"),
        "TypeError.*Sampler",
    ),
    "returns_functions": (
        "from samplers import hookimpl\ndef walk(): pass\n@hookimpl\ndef register_samplers():\n    return [walk]",
        r"register_samplers returned the function walk; .* a list of Sampler: put @sampler\(...\) above it",
    ),
    "returns_schedules": (
        "from samplers import hookimpl, schedule\n@schedule('S')\ndef s(model, steps): return []\n"
        "@hookimpl\ndef register_samplers():\n    return [s]",
        "register_samplers returned Schedule; it has to return a list of Sampler",
    ),
    "takes_arguments": (
        "from samplers import hookimpl\n@hookimpl\ndef register_samplers(page):\n    return []",
        "page",
    ),
    "no_generator": (
        "from samplers import sampler\n@sampler('N')\ndef n(denoise, x, sigmas, noise):\n    return x",
        r"n\(\) must be a generator",
    ),
    "bad_option": (
        "from samplers import sampler\n@sampler('N')\ndef n(denoise, x, sigmas, noise, *, eta=1.0):\n    yield",
        r"n\(\): option 'eta' needs a type",
    ),
    "bad_annotation": (
        "from __future__ import annotations\nfrom samplers import sampler\n"
        "@sampler('N')\ndef n(denoise, x, sigmas, noise, *, eta: Anotated[float, 3] = 1.0):\n    yield",
        "NameError: name 'Anotated' is not defined",
    ),
    "bad_arguments": (
        "from samplers import sampler\n@sampler('N')\ndef n(denoise, x):\n    yield",
        r"n\(\) must take \(denoise, x, sigmas, noise\)",
    ),
    "bad_schedule": (
        "from samplers import schedule\n@schedule('N')\ndef n(model):\n    return []",
        r"n\(\) must take \(model, steps\)",
    ),
}


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, source in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return folder


def good(name: str, version: str = "1") -> str:
    return GOOD.format(name=name, version=version)


def only(folder: Path, **options) -> Registry:
    return discover(folder, packages=False, **options)


# Names before and after every broken plugin's, so that one that broke the loop would be seen.
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_listed_with_its_source_and_reason_and_the_others_load(tmp_path, name):
    source, reason = BROKEN[name]
    folder = write(tmp_path / "mine", **{"a_first": good("First"), name: source, "z_last": good("Last")})
    registry = discover(PLUGINS / "nowhere", [folder], packages=False)

    assert list(registry.samplers) == ["First", "Last"]
    (broken,) = registry.broken
    assert broken.source == f"mine/{name}.py"
    assert broken.name
    assert re.search(reason, broken.reason), broken.reason


def test_all_broken_plugins_at_once_are_all_listed(tmp_path):
    folder = write(tmp_path / "mine", **{name: source for name, (source, _) in BROKEN.items()}, zz_good=good("Good"))
    registry = discover(PLUGINS / "nowhere", [folder], packages=False)
    assert {broken.source for broken in registry.broken} == {f"mine/{name}.py" for name in BROKEN}
    assert list(registry.samplers) == ["Good"]


def test_an_interrupted_import_leaves_no_module_behind(tmp_path):
    folder = write(tmp_path / "mine", half="x = 1\nraise ValueError")
    only(folder)
    assert not [name for name in sys.modules if name.endswith("_half")]


def test_a_plugin_that_offers_good_and_bad_things_keeps_the_good(tmp_path):
    source = textwrap.dedent(good("Good")).replace("[walk]", "[walk, 3, walk]")
    registry = only(write(tmp_path / "mine", mixed=source))
    assert list(registry.samplers) == ["Good"]
    assert [broken.reason for broken in registry.broken] == [
        "register_samplers returned int; it has to return a list of Sampler",
        "the name 'Good' is taken by built-in/mixed",
    ]


def test_one_plugin_may_offer_samplers_and_schedules(tmp_path):
    source = textwrap.dedent(good("S")) + textwrap.dedent("""
        from samplers import schedule

        @schedule("Halving")
        def halving(model, steps):
            return [model.sigma_max / 2**i for i in range(steps)]

        @hookimpl
        def register_schedules():
            return [halving]
    """)
    registry = only(write(tmp_path / "mine", both=source))
    assert isinstance(registry.sampler("S").item, Sampler) and isinstance(registry.schedule("Halving").item, Schedule)
    assert not registry.broken


def test_a_sampler_and_a_schedule_may_have_one_name(tmp_path):
    schedule = """
        from samplers import hookimpl, schedule

        @schedule("Same")
        def same(model, steps):
            return [model.sigma_max / 2**i for i in range(steps)]

        @hookimpl
        def register_schedules():
            return [same]
    """
    registry = only(write(tmp_path / "mine", a=good("Same"), b=schedule))
    assert registry.sampler("Same").source == "built-in/a" and registry.schedule("Same").source == "built-in/b"


# --- precedence, names and ids


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Pretends that a distribution is installed whose entry points are given: name=module, or name=module:object."""

    def install(distribution: str, version: str, points: dict[str, str], **modules: str):
        site = write(tmp_path / f"site-{distribution}", **modules)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8"
        )
        lines = "".join(f"{name} = {target}\n" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[sigmalab]\n{lines}", encoding="utf-8")
        monkeypatch.syspath_prepend(site)
        for module in modules:
            monkeypatch.delitem(sys.modules, module, raising=False)

    yield install
    for name in [name for name in sys.modules if name.startswith("sigmalab_test_")]:
        del sys.modules[name]


def test_an_installed_package_is_found_by_its_entry_point(package, tmp_path):
    package("shiny-samplers", "2.5", {"shiny": "sigmalab_test_shiny"}, sigmalab_test_shiny=good("Shiny"))
    registry = discover(tmp_path / "nowhere")
    entry = registry.sampler("Shiny")
    assert (entry.source, entry.id, entry.version) == ("shiny-samplers/shiny", "shiny-samplers/shiny/Shiny", "2.5")
    assert "Shiny" not in discover(tmp_path / "nowhere", packages=False).samplers


def test_an_entry_point_may_name_an_object(package, tmp_path):
    source = """
        import types
        import sigmalab_test_inner
        plugin = types.SimpleNamespace(register_samplers=sigmalab_test_inner.register_samplers)
    """
    package(
        "objects",
        "1",
        {"o": "sigmalab_test_outer:plugin"},
        sigmalab_test_outer=source,
        sigmalab_test_inner=good("Object"),
    )
    assert discover(tmp_path / "nowhere").sampler("Object").source == "objects/o"


@pytest.mark.parametrize(
    "target, module, reason",
    [
        ("sigmalab_test_absent", {}, "No module named 'sigmalab_test_absent'"),
        ("sigmalab_test_raises", dict(sigmalab_test_raises="1 / 0"), "division by zero"),
        ("sigmalab_test_exits", dict(sigmalab_test_exits="raise SystemExit"), "SystemExit"),
        ("sigmalab_test_empty:gone", dict(sigmalab_test_empty=""), "gone"),
    ],
)
def test_a_broken_package_is_listed_and_the_others_load(package, tmp_path, target, module, reason):
    package("bad-one", "1", {"bad": target}, **module)
    package("zz-good", "1", {"zz": "sigmalab_test_zz"}, sigmalab_test_zz=good("Fine"))
    registry = discover(tmp_path / "nowhere")
    (broken,) = [broken for broken in registry.broken if broken.source == "bad-one/bad"]
    assert reason in broken.reason
    assert registry.sampler("Fine").source == "zz-good/zz"


def test_a_taken_name_is_refused_to_the_later_one(package, tmp_path):
    builtin = write(tmp_path / "builtin", b_walk=good("Walk"), a_other=good("Other"))
    package("packaged", "1", {"p": "sigmalab_test_p"}, sigmalab_test_p=good("Walk"))
    first = write(tmp_path / "first", mine=good("Walk"), another=good("Theirs"))
    second = write(tmp_path / "second", mine=good("Theirs"))
    registry = discover(builtin, [first, second])

    ours = {name: entry.source for name, entry in registry.samplers.items() if name in ("Walk", "Other", "Theirs")}
    assert ours == {"Other": "built-in/a_other", "Walk": "built-in/b_walk", "Theirs": "first/another.py"}
    assert {(broken.source, broken.name, broken.reason) for broken in registry.broken} >= {
        ("packaged/p", "Walk", "the name 'Walk' is taken by built-in/b_walk"),
        ("first/mine.py", "Walk", "the name 'Walk' is taken by built-in/b_walk"),
        ("second/mine.py", "Theirs", "the name 'Theirs' is taken by first/another.py"),
    }


def test_a_package_comes_before_a_folder(package, tmp_path):
    package("packaged", "1", {"p": "sigmalab_test_p"}, sigmalab_test_p=good("Walk"))
    registry = discover(tmp_path / "nowhere", [write(tmp_path / "mine", walk=good("Walk"))])
    assert registry.sampler("Walk").source == "packaged/p"


def test_within_a_folder_the_order_is_alphabetical(tmp_path):
    registry = only(write(tmp_path / "mine", c=good("C"), a=good("A"), b=good("B")))
    assert list(registry.samplers) == ["A", "B", "C"]


def test_files_that_begin_with_an_underscore_are_not_plugins(tmp_path):
    registry = only(write(tmp_path / "mine", _helper="1 / 0", __init__="1 / 0", real=good("Real")))
    assert list(registry.samplers) == ["Real"] and not registry.broken


def test_one_file_name_in_two_folders_is_two_plugins(tmp_path):
    folders = [write(tmp_path / "one", walk=good("One")), write(tmp_path / "two", walk=good("Two"))]
    registry = discover(tmp_path / "nowhere", folders, packages=False)
    assert list(registry.samplers) == ["One", "Two"] and not registry.broken


def test_a_folder_given_twice_is_listed_and_its_samplers_stay(tmp_path):
    folder = write(tmp_path / "mine", walk=good("Walk"))
    registry = discover(tmp_path / "nowhere", [folder, folder], packages=False)
    assert list(registry.samplers) == ["Walk"]
    assert len(registry.broken) <= 1


def test_a_folder_that_is_not_there_has_no_plugins(tmp_path):
    assert discover(tmp_path / "nowhere", [tmp_path / "neither"], packages=False) == Registry()


def test_an_entry_is_found_by_name_and_by_id(tmp_path):
    folder = write(tmp_path / "mine", walk=good("Walk", version="1.2"))
    registry = discover(tmp_path / "nowhere", [folder], packages=False)
    entry = registry.sampler("Walk")
    assert registry.sampler(entry.id) is entry
    assert entry.id == "mine/walk.py/Walk"
    assert entry.version == "1.2" and len(entry.digest) == 16


def test_an_id_of_earlier_pictures_with_its_whole_path_is_still_found(tmp_path):
    folder = write(tmp_path / "mine", walk=good("Walk"))
    registry = discover(PLUGINS / "nowhere", [folder], packages=False)
    assert registry.sampler(f"{folder}/walk.py/Walk") is registry.sampler("Walk")


def test_a_folder_with_an_init_is_a_plugin(tmp_path):
    folder = write(tmp_path / "mine", other=good("Other"))
    write(folder / "both", __init__="from .parts import register_samplers\n", parts=good("Walk"))
    registry = discover(PLUGINS / "nowhere", [folder], packages=False)
    assert not registry.broken
    assert list(registry.samplers) == ["Walk", "Other"]
    assert registry.sampler("Walk").source == "mine/both"


@pytest.mark.parametrize("changed", ["__init__", "parts"])
def test_the_digest_of_a_folder_covers_all_of_its_files(tmp_path, changed):
    files = dict(__init__="from .parts import register_samplers\n", parts=textwrap.dedent(good("Walk")))
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "both", **files)
    before = only(folder).sampler("Walk").digest
    assert only(folder).sampler("Walk").digest == before
    write(folder / "both", **{changed: files[changed] + "\n# changed\n"})
    assert only(folder).sampler("Walk").digest != before


def test_a_package_has_a_digest(package, tmp_path):
    package("shiny-samplers", "2.5", {"shiny": "sigmalab_test_shiny"}, sigmalab_test_shiny=good("Shiny"))
    file = tmp_path / "site-shiny-samplers" / "sigmalab_test_shiny.py"
    entry = discover(tmp_path / "nowhere").sampler("Shiny")
    assert entry.digest == hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def test_the_digest_follows_the_file(tmp_path):
    folder = write(tmp_path / "mine", walk=good("Walk"))
    before = only(folder).sampler("Walk").digest
    assert only(folder).sampler("Walk").digest == before
    write(folder, walk=good("Walk") + "\n    # changed\n")
    assert only(folder).sampler("Walk").digest != before


def test_a_changed_plugin_is_read_anew(tmp_path):
    folder = write(tmp_path / "mine", walk=good("Before"))
    assert list(only(folder).samplers) == ["Before"]
    write(folder, walk=good("After, and of another length"))
    assert list(only(folder).samplers) == ["After, and of another length"]


@pytest.mark.parametrize("kind", ["sampler", "schedule"])
@pytest.mark.parametrize("name", ["", "euler", "DDIM ", "built-in/DDIM"])
def test_an_unknown_name_s_error_lists_the_known_ones(registry, kind, name):
    with pytest.raises(ValueError) as error:
        getattr(registry, kind)(name)
    known = ", ".join(getattr(registry, f"{kind}s"))
    assert str(error.value) == f"unknown {kind} {name!r}; known are {known}"


def test_two_discoveries_do_not_share_anything(tmp_path):
    one, other = only(write(tmp_path / "one", walk=good("Walk"))), only(write(tmp_path / "two", walk=good("Walk")))
    assert list(one.samplers) == list(other.samplers) == ["Walk"]
    assert one.sampler("Walk").item is not other.sampler("Walk").item
    assert not one.broken and not other.broken


def test_a_plugin_with_a_dataclass_and_late_annotations_loads(tmp_path):
    source = (
        "from __future__ import annotations\n"
        + textwrap.dedent(good("Walk"))
        .replace(
            "def walk(denoise, x, sigmas, noise):",
            "def walk(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(0, 1)] = 0.5):",
        )
        .replace("import Step", "import Range, Step")
        .replace("from itertools", "from dataclasses import dataclass\nfrom typing import Annotated\nfrom itertools")
        + "\n@dataclass\nclass State:\n    x: float\n"
    )
    registry = only(write(tmp_path / "mine", walk=source))
    assert [option.name for option in registry.sampler("Walk").item.options] == ["eta"]

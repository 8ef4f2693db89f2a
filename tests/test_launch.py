"""The way from `python launch.py` to a running page or test suite, in projects made up for the purpose."""

import ast
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import packaging
import pytest

import launch
from webui import command_line, environment, settings

ROOT = Path(__file__).parents[1]
OURS = ["launch.py", "webui/__init__.py", "webui/environment.py", "webui/settings.py", "webui/command_line.py"]
SERVE = """
import json, os, sys
def serve(settings):
    import tiny
    hub = os.environ["HF_HUB_OFFLINE"]
    seen = dict(prefix=sys.prefix, port=settings.port, auth=settings.auth, tiny=tiny.VERSION, hub=hub)
    print("SERVED", json.dumps(seen))
"""
PYPROJECT = '[project]\nname = "demo"\noptional-dependencies.test = ["pytest>=9,<10"]\n'
# Stands in for pip: "installs" tiny and pytest as one file and one dist-info each, or fails as FAKE_PIP says.
FAKE_PIP = """
import os, sys, sysconfig, time
from pathlib import Path
with open(os.environ["FAKE_PIP_LOG"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + chr(10))
mode = os.environ.get("FAKE_PIP", "")
if mode == "slow":
    time.sleep(60)
if mode.startswith("fail "):
    sys.exit("ERROR: " + mode[5:])
site = Path(sysconfig.get_path("purelib"))
for line in [] if mode == "idle" else [a for a in sys.argv if "," in a]:
    name, version = line.split(">=")[0], line.split(">=")[1].split(",")[0]
    text = "import sys; print('PYTEST', sys.argv[1:]); sys.exit(3)" if name == "pytest" else f"VERSION = {version!r}"
    (site / f"{name}.py").write_text(text)
    for old in site.glob(f"{name}-*.dist-info"):
        old.rename(site / f"{name}-{version}.dist-info")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    (info / "RECORD").write_text("kept by the fake pip")
"""


class Project:
    """A folder with our launch.py, a page that reports what it was given, and one requirement."""

    def __init__(self, folder: Path, fake_pip: bool = True):
        self.folder, self.log = folder, folder.parent / f"{folder.name}-pip.log"
        self.site = folder / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        self.python = folder / ".venv" / "bin" / "python"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "HF_", "SIGMALAB_"))}
        self.environment = {**clean, "PIP_CONFIG_FILE": os.devnull, "FAKE_PIP_LOG": str(self.log)}
        # A module rewritten within a second looks unchanged to Python's cache of compiled files.
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"
        if fake_pip:
            self.environment["PYTHONPATH"] = str(folder / "fakes")

    def create(self, requirement: str = "tiny>=1,<2") -> "Project":
        for name in OURS:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        (self.folder / "webui" / "app.py").write_text(SERVE)
        (self.folder / "pyproject.toml").write_text(PYPROJECT)
        (self.folder / "fakes" / "pip").mkdir(parents=True)
        (self.folder / "fakes" / "pip" / "__main__.py").write_text(FAKE_PIP)
        shutil.copytree(Path(packaging.__file__).parent, self.folder / "fakes" / "packaging")
        return self.require(requirement)

    def require(self, requirement: str) -> "Project":
        (self.folder / "requirements.txt").write_text(f"# packages\n{requirement}  # why\n")
        return self

    def command(self, *arguments: str, python: Path | str = sys.executable) -> list[str]:
        return [str(python), str(self.folder / "launch.py"), *arguments]

    def start(self, *arguments: str, python: Path | str = sys.executable, **environment: str):
        command = self.command(*arguments, python=python)
        return subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True, timeout=600
        )

    def pip_calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def served(result) -> dict:
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.split("SERVED ")[1])


def refused(result) -> str:
    assert result.returncode == 1 and "Traceback" not in result.stderr and "SERVED" not in result.stdout, result.stderr
    return result.stderr


def wheel(folder: Path, version: str) -> None:
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "demo").create()


def test_with_the_real_pip(tmp_path):
    wheel(tmp_path, "1.5")
    wheel(tmp_path, "2.0")
    project = Project(tmp_path / "demo", fake_pip=False).create()
    shutil.rmtree(project.folder / "fakes")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_USER": "1"}
    result = project.start("--port", "7999", **offline)
    report = served(result)
    assert report["prefix"] == str(project.folder / ".venv")
    assert report["tiny"] == "1.5"
    assert report["hub"] == "1"
    assert "Making" in result.stdout
    assert "Installing tiny" in result.stdout
    assert "pip install" not in result.stdout

    unreachable = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    second = project.start(**unreachable)
    assert served(second)["tiny"] == "1.5"
    assert "Installing" not in second.stdout

    project.require("tiny>=2,<3")
    message = refused(project.start(**unreachable))
    assert "registry cannot be reached" in message
    assert "start again" in message
    assert served(project.start(**offline))["tiny"] == "2.0"

    (project.site / "tiny.py").write_text("")
    (project.site / "tiny-2.0.dist-info" / "RECORD").unlink()
    (project.folder / ".venv" / environment.INSTALLED).unlink()
    assert served(project.start(**offline))["tiny"] == "2.0"


def test_a_second_start_installs_only_what_has_changed(project):
    served(project.start())
    assert len(project.pip_calls()) == 1
    for python in (sys.executable, project.python):
        again = project.start(python=python)
        assert served(again)["prefix"] == str(project.folder / ".venv")
        assert again.stdout.startswith("SERVED")
        assert not again.stderr
    assert len(project.pip_calls()) == 1
    # Changed requirements are work again.
    assert served(project.require("tiny>=2,<3").start())["tiny"] == "2"


@pytest.fixture
def interruptible():
    """Ctrl+C reaches what is started meanwhile, also where the tests run in the background of a script, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted_installation_recovers(project, interruptible):
    process = subprocess.Popen(
        project.command(),
        env={**project.environment, "FAKE_PIP": "slow"},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 300
    while not project.pip_calls() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 130
    assert "launch.py" not in errors
    assert served(project.start())["tiny"] == "1"


def test_unusable_environments_are_made_anew(project):
    folder = project.folder / ".venv"
    folder.mkdir()
    (folder / "pyvenv.cfg").write_text("home = nowhere\n")
    assert served(project.start())["tiny"] == "1"
    project.python.unlink()
    project.python.symlink_to("/nonexistent/python3")
    assert served(project.start())["tiny"] == "1"
    # As after an upgrade of the Python that it was made with.
    project.site.parent.rename(folder / "lib" / "python3.1")
    assert served(project.start())["tiny"] == "1"
    assert not (folder / "lib" / "python3.1").exists()


def test_running_interpreter_is_used_when_it_has_all(project):
    assert (
        served(project.require("packaging>=20,<99").start(PYTHONPATH=str(tiny_folder(project))))["prefix"] == sys.prefix
    )
    assert not (project.folder / ".venv").exists()


def tiny_folder(project: Project) -> Path:
    folder = project.folder / "elsewhere"
    folder.mkdir()
    (folder / "tiny.py").write_text("VERSION = 'by hand'")
    return folder


FAILURES = {
    "fail OSError: [Errno 28] No space left on device": ["disk is full", "Free some space"],
    "fail Failed to establish a new connection: [Errno 101]": ["cannot be reached", "HTTPS_PROXY", "start again"],
    "fail No matching distribution found for tiny": ["reason is above", "delete .venv"],
    "idle": ["these are missing: tiny>=1,<2", "Delete"],
}


def test_failed_installations_say_why_and_the_next_recovers(project):
    for failure, words in FAILURES.items():
        message = refused(project.start(FAKE_PIP=failure))
        assert [word for word in words if word not in message] == [], message
    assert served(project.start())["tiny"] == "1"


def test_no_setup_names_what_is_missing(project):
    message = refused(project.start("--no-setup"))
    assert "tiny>=1,<2" in message
    assert "without --no-setup" in message
    assert not (project.folder / ".venv").exists()


def test_test_command_adds_its_requirements_and_keeps_the_status(project):
    result = project.start("test", "-k", "some thing", "--maxfail=1", "--no-setup")
    assert result.returncode == 1
    assert "pytest" not in project.pip_calls()
    result = project.start("test", "-k", "some thing", "--maxfail=1", PYTHONPATH=project.environment["PYTHONPATH"])
    assert result.returncode == 3 and result.stdout.endswith("PYTEST ['-k', 'some thing', '--maxfail=1']\n"), (
        result.stderr
    )


def test_torch_index_is_asked_for_torch_alone(project):
    project.require("tiny>=1,<2\ntorch>=2,<3\ntorchvision>=0.1,<1")
    url = "https://example.org/cpu"
    served(project.start("--torch-index", url))
    first, second = project.pip_calls()
    assert first.endswith(f"--index-url {url} torch>=2,<3 torchvision>=0.1,<1")
    assert "tiny" not in first
    assert url not in second
    assert second.endswith("tiny>=1,<2 torch>=2,<3 torchvision>=0.1,<1")
    assert "delete" in project.start("--torch-index", url).stdout


@pytest.mark.parametrize("index, need", [(None, "7" if sys.platform == "linux" else "3"), ("https://example.org", "3")])
def test_too_little_disk_space(project, monkeypatch, index, need):
    project.require("torch>=99,<100")
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=1.25e9))
    with pytest.raises(
        environment.StartError, match=rf"1\.2 GB are free, about {need} GB are needed(?s:.*)Free some space"
    ):
        environment.prepare(project.folder, torch_index=index)
    assert not (project.folder / ".venv").exists()


def test_python_without_ensurepip(project, monkeypatch):
    found = environment.importlib.util.find_spec
    monkeypatch.setattr(
        environment.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else found(name)
    )
    with pytest.raises(environment.StartError, match=r"apt install python3\.\d+-venv"):
        environment.prepare(project.folder)


def test_folder_that_cannot_be_written(project, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("venv.EnvBuilder.create", refuse)
    with pytest.raises(environment.StartError, match=r"cannot write to .*Permission denied(?s:.*)--no-setup"):
        environment.prepare(project.folder)


def test_deciding_is_fast():
    wanted = environment.requirements(ROOT, tests=True)
    times = []
    for _ in range(3):
        # Processor time: other programs on the machine do not count.
        start = time.process_time()
        environment.missing(wanted)
        times.append(time.process_time() - start)
    assert min(times) < 0.2


def test_too_old_python_is_told(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 10))
    with pytest.raises(SystemExit, match=r"3\.11 or later is needed; this is 3\.8"):
        runpy.run_path(str(ROOT / "launch.py"), run_name="__main__")


def test_old_pythons_can_read_launch():
    tree = ast.parse((ROOT / "launch.py").read_text(), feature_version=(3, 6))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "version, satisfies",
    [("2.9.1", False), ("2.13.0+cpu", True), ("2.14.0.dev20260101+cu132", True), ("3.0rc1", False), ("unknown", False)],
)
def test_versions_are_compared_as_pip_does(monkeypatch, version, satisfies):
    monkeypatch.setattr(environment.metadata, "version", lambda name: version)
    assert environment.missing(["torch>=2.10,<3"]) == ([] if satisfies else ["torch>=2.10,<3"])


def test_a_python_without_pip_and_packaging_lacks_everything(monkeypatch):
    monkeypatch.setattr(environment.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    assert environment.missing(["pytest>=9,<10"]) == ["pytest>=9,<10"]


def test_our_requirements_are_readable_and_agree():
    wanted = environment.requirements(ROOT, tests=True)
    assert len(wanted) == len(set(wanted)) > 15
    environment.missing(wanted)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= set(wanted)


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as end:
        command_line.parse(["--help"])
    text = capsys.readouterr().out
    flags = (
        "host port share auth model device plugins-dir plugins json no-plugins outputs no-browser no-setup torch-index"
    )
    assert end.value.code == 0
    assert all(f"  --{flag}" in text for flag in flags.split())
    assert "{auto,cuda,mps,cpu}" in text
    assert "launch.py test" in text


@pytest.mark.parametrize(
    "arguments, allowed",
    [
        (["--port", "0"], "from 1 to 65535"),
        (["--port", "a"], "from 1 to 65535"),
        (["--auth", "nobody"], "USER:PASSWORD"),
        (["--auth", ":secret"], "USER:PASSWORD"),
        (["--device", "tpu"], "cuda"),
        (["--devices", "cpu,tpu"], "allowed are cpu, mps, cuda, cuda:0"),
        (["--workers", "0"], "1 to 64"),
        (["--workers", "2", "--devices", "cpu"], "not allowed with"),
        (["--plugins-dir", "/nowhere"], "existing"),
        (["--outputs", __file__], "name a folder"),
        (["--torch-index", "cpu"], "https://"),
        (["--json"], "--plugins"),
        (["--plug"], "unrecognized"),
    ],
)
def test_bad_values_are_refused(arguments, allowed, capsys):
    with pytest.raises(SystemExit) as end:
        command_line.parse(arguments)
    assert end.value.code == 2
    assert allowed in capsys.readouterr().err


def test_plugins_are_listed_whatever_they_do(tmp_path, capsys):
    (tmp_path / "bad.py").write_text("import nothing_like_this")
    (tmp_path / "odd.py").write_text(
        "from samplers import Step, hookimpl, sampler\n"
        "@sampler('Odd', order=lambda: 1 / 0)\n"
        "def odd(denoise, x, sigmas, noise):\n    yield Step(x, 0.0, x)\n"
        "@hookimpl\ndef register_samplers():\n    return [odd]\n"
    )

    def listed(*more: str) -> str:
        launch.list_plugins(command_line.parse(["--plugins", "--plugins-dir", str(tmp_path), *more])[0])
        return capsys.readouterr().out

    text, listing = listed(), json.loads(listed("--json"))
    assert {"DDPM", "DDIM", "Euler", "Flow"} <= {row["name"] for row in listing["samplers"]}
    assert "Karras" in {row["name"] for row in listing["schedules"]}
    assert {row["source"].split("/")[-1] for row in listing["broken"]} >= {"bad.py"}
    assert "nothing_like_this" in text
    assert "Odd" not in {row["name"] for row in listing["samplers"]}
    assert all(
        {"version", "order", "calls", "stochastic", "paper", "options"} <= row.keys() for row in listing["samplers"]
    )
    calls = {row["name"]: row["calls"] for row in listing["samplers"]}
    assert (calls["Euler"], calls["Heun"], calls["Flow"]) == (1, 1.95, None)
    assert not any(tmp_path.name in row["source"] for row in json.loads(listed("--json", "--no-plugins"))["broken"])


def resolve(*arguments: str) -> settings.Settings:
    return settings.resolve(command_line.parse(list(arguments))[0], ROOT)


def test_settings_from_flags(tmp_path):
    given = resolve(
        "--plugins-dir", str(tmp_path), "--outputs", str(tmp_path / "new"), "--auth", "ann:a:b", "--no-browser"
    )
    assert given.plugin_folders == (tmp_path,)
    assert given.plugin_packages
    assert given.outputs == tmp_path / "new"
    assert given.auth == ("ann", "a:b")
    assert not given.open_browser
    assert not given.public
    assert given.weights == ROOT / "weights"
    assert resolve().outputs == ROOT / "outputs"
    assert resolve().auth is None
    alone = resolve("--no-plugins", "--plugins-dir", str(tmp_path))
    assert alone.plugin_folders == ()
    assert not alone.plugin_packages


def test_devices_and_workers_are_processes():
    assert resolve().devices == ()
    assert resolve("--devices", "cuda:0,cuda:1").devices == ("cuda:0", "cuda:1")
    assert resolve("--workers", "2", "--device", "cpu").devices == ("cpu", "cpu")
    cluster = resolve("--ray", "auto")
    assert (cluster.ray, cluster.devices, cluster.has_processes) == ("auto", (), True)
    with pytest.raises(environment.StartError, match="--workers N takes so many"):
        resolve("--ray", "auto", "--devices", "cpu")


def test_taken_port_gives_the_next_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < resolve("--port", str(port)).port < port + settings.PORTS_TRIED
        with pytest.raises(environment.StartError, match="no address of this machine"):
            settings.free_port("192.0.2.1", port)
        with pytest.raises(environment.StartError, match="unknown"):
            settings.free_port("no such host", port)


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--share"], ["--host", "0.0.0.0", "--share"]])
def test_public_pages_get_a_login(arguments):
    first, second = resolve(*arguments), resolve(*arguments)
    assert first.public
    assert len(first.auth[1]) >= 16
    assert first.auth != second.auth
    assert resolve(*arguments, "--auth", "ann:secret").auth == ("ann", "secret")


@pytest.mark.parametrize(
    "host, private", [("localhost", 1), ("127.0.0.5", 1), ("::1", 1), ("", 0), ("::", 0), ("10.0.0.1", 0)]
)
def test_what_counts_as_private(host, private):
    assert settings.is_loopback(host) == bool(private)


def test_generated_login_and_moved_port_are_told(project):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = project.start("--host", "0.0.0.0", "--port", str(port))
    report = served(result)
    assert f"Port {port} is taken; using {report['port']}." in result.stdout
    user, password = report["auth"]
    assert f"user {user}, password {password}" in result.stdout

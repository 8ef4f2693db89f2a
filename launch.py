"""Start Sigmalab: flags -> environment -> plugins -> page.

Needs nothing but Python 3.11; what else is needed is installed into .venv beside this file. This file is written so
that an older Python can still read it and say what is wrong.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "sigmalab: Python 3.11 or later is needed; this is %d.%d (%s).\n"
        "Install a newer one (https://www.python.org/downloads/ or your system's packages) and start with it,\n"
        "for example: python3.11 launch.py" % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def main(arguments):
    """Run the command line; exits with its status."""
    from webui import command_line, environment

    flags, rest = command_line.parse(arguments)
    # What we say must not wait behind what pip and pytest say when the output goes to a file.
    sys.stdout.reconfigure(line_buffering=True)
    # At run time nothing is fetched and nothing reported; a user who set one of these keeps it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    testing = flags.command == "test"
    try:
        python = environment.prepare(ROOT, setup=not flags.no_setup, tests=testing, torch_index=flags.torch_index)
        if python:
            hand_over([str(python), str(ROOT / "launch.py")] + arguments)
        elif testing:
            os.chdir(str(ROOT))
            hand_over([sys.executable, "-m", "pytest"] + rest)
        else:
            run(flags, rest)
    except environment.StartError as error:
        sys.exit("sigmalab: %s" % error)
    except KeyboardInterrupt:
        sys.exit(130)


def hand_over(command):
    """Go on as another command; its exit status becomes ours."""
    if os.name != "nt":
        os.execv(command[0], command)
    # Windows has no exec: wait, and leave Ctrl+C to the child, which gets it too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(subprocess.call(command))


def run(flags, rest):
    """Run a command that needs the environment; exits with its status unless that is 0."""
    if flags.command == "page":
        open_page(flags)
    elif flags.command == "plugins":
        list_plugins(flags)
    else:
        commands = {"draw": draw, "info": info, "check": check, "replay": replay, "account": write_account}
        commands |= {"calibrate": calibrate, "completion": completion}
        sys.exit(commands[flags.command](flags, rest))


def open_page(flags):
    """Serve the page until Ctrl+C."""
    from webui.settings import resolve

    settings = resolve(flags, ROOT)
    if flags.clear_cache and settings.cache:
        shutil.rmtree(settings.cache, ignore_errors=True)
    if settings.port != flags.port:
        print("Port %d is taken; using %d." % (flags.port, settings.port))
    if settings.auth != flags.auth:
        print("Others can reach this page, so it asks for a login: user %s, password %s" % settings.auth)
    from webui.app import serve

    serve(settings)


def write_account(flags, rest):
    """Add, change or remove an account of a shared page."""
    from webui.account_command import change_account

    return change_account(flags.auth_file, flags.account, flags.admin, flags.remove)


def replay(flags, rest):
    """Make pictures again; 0 if all are equal."""
    from webui.replay_command import replay_files
    from webui.settings import settings_without_page

    settings = settings_without_page(flags, ROOT)
    return replay_files(settings, flags.files, flags.one_at_a_time, flags.input, flags.mask)


def draw(flags, rest):
    """Draw pictures; 0 if all are finished."""
    from webui.draw_command import draw_pictures

    return draw_pictures(rest, ROOT)


def info(flags, rest):
    """Show what pictures carry; 0 if all could be read."""
    from webui.info_command import show_files
    from webui.settings import settings_without_page

    return show_files(settings_without_page(flags, ROOT), flags.files, flags.json)


def check(flags, rest):
    """Check plugins; 0 if they passed."""
    from webui.check_command import check_files

    return check_files(flags.files, flags.json, flags.distilled)


def calibrate(flags, rest):
    """Fit a sampler to a model; 0 if anything was kept."""
    from webui.calibrate_command import calibrate_sampler
    from webui.settings import settings_without_page

    return calibrate_sampler(settings_without_page(flags, ROOT), flags)


def completion(flags, rest):
    """Print a shell's completion of this command line; 0."""
    from webui.completion_command import print_completion
    from webui.settings import settings_without_page

    return print_completion(settings_without_page(flags, ROOT), flags.shell)


def list_plugins(flags):
    """Print what can be chosen, and what failed to load and why."""
    from samplers.registry import discover

    folders = [] if flags.no_plugins else flags.plugins_dir
    # A plugin that prints when it is imported must not end up in the middle of the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        found = discover(ROOT / "plugins", folders, packages=not flags.no_plugins, deep=True)
    broken = [{"source": b.source, "name": b.name, "reason": b.reason} for b in found.broken]
    listing = {
        kind: [dict(entry.describe(), check=entry.check) for entry in entries.values()]
        for kind, entries in (
            ("samplers", found.samplers),
            ("schedules", found.schedules),
            ("guidances", found.guidances),
        )
    }
    if flags.json:
        print(json.dumps(dict(listing, broken=broken), indent=2))
        return
    for kind, rows in listing.items():
        print("%s:" % kind)
        for row in rows:
            options = ", ".join(option["name"] for option in row["options"]) or "none"
            print("  %-34s version %s, from %s; options: %s" % (row["name"], row["version"], row["source"], options))
            print("  %-34s check: %s" % ("", row["check"]))
    if broken:
        print("not loaded:")
        for row in broken:
            print("  %-20s from %s: %s" % (row["name"], row["source"], row["reason"]))


if __name__ == "__main__":
    main(sys.argv[1:])

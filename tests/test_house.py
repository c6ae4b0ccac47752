"""The house itself: which way imports run, who may do what, and how large a room may be. Walks the source."""

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "openrouter_mcp"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Low to high: a module may import what stands on its own line or below it.
LAYERS = (
    {"__init__", "text"},
    {"pages", "likeness", "complaints"},
    {"errors"},
    {"wire", "records", "failures", "refusals", "options", "policy", "state", "environment"},
    {"settings", "engine"},
    {"callers"},
    {"access"},
    {"schemas"},
    {"chat"},
    {"choice", "retry", "pricing"},
    {"finding", "nearest"},
    {"purse"},
    {"listing"},
    {"catalog", "ledger", "cached"},
    {"vetting"},
    {"audit", "budget"},
    {"guard"},
    {"client", "reading"},
    {"transcript"},
    {"files"},
    {"attempts", "attachments", "conversation"},
    {"forms"},
    {"plans", "judge"},
    {"archive"},
    {"keeping"},
    {"writing"},
    {"answers"},
    {"compare"},
    {"asking"},
    {"batch"},
    {"results"},
    {"app", "render"},
    {"tools", "seal"},
    {"observing"},
    {"metrics", "protocol"},
    {"server"},
    {"door"},
    {"asgi"},
    {"cli", "__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Who may import a library; `tools` only for the annotations of arguments.
MAY_IMPORT = {
    "mcp": {"server", "protocol", "observing", "door", "seal", "asgi", "cli", "tools.arguments", "tools.consent"},
    "mcp_types": {"server", "protocol", "observing", "seal", "asgi", "cli"},
    "httpx2": {"client", "reading", "app", "sandbox.transport"},
    "starlette": {"asgi", "cli", "door"},
    "prometheus_client": {"metrics"},
    "redis": {"engine"},
    "uvicorn": {"cli"},
    "sse_starlette": {"cli"},
}
# Who may catch our errors: to try again, to make a row, to keep an older copy, or for the reader at the end.
MAY_CATCH = {
    "attempts",
    "forms",  # a mending that fails leaves the answer as it was
    "writing",
    "compare",
    "batch",
    "asking",
    "server",  # of an id that is completed: none where the catalogue cannot be read
    "protocol",
    "cli",
    "catalog",  # says what could not be read: the prices
    "cached",  # a file that cannot be used is none
    "engine",  # what it says of itself is why it is away
    "ledger",  # an allowance that cannot be read is unknown, a book that cannot be used is replaced
    "client",  # a balance that is not shown is unknown, not a failure
}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
           tokenize.ENDMARKER}  # fmt: skip
OUR_ERRORS = {
    node.name
    for room in ("errors.py", "refusals.py")
    for node in ast.walk(ast.parse((PACKAGE / room).read_text()))
    if isinstance(node, ast.ClassDef) and node.name != "Outcome"
}


def name_of(path: Path) -> str:
    """`cli.stdio` for openrouter_mcp/cli/stdio.py, `cli` for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(module: str) -> str:
    return module.partition(".")[0]


TREES = {name_of(path): ast.parse(path.read_text()) for path in MODULES}
OURS = [name for name in TREES if room_of(name) != "sandbox"]
SANDBOX = [name for name in TREES if room_of(name) == "sandbox"]


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(tree: ast.AST) -> set[str]:
    """The rooms of this package that a module imports."""
    names = {name.split(".")[1] for name in imported(tree) if name.startswith("openrouter_mcp.")}
    return {name for name in names if name in RANK or name == "sandbox"}


@pytest.mark.parametrize("module", OURS)
def test_imports_run_one_way_only(module: str) -> None:
    room = room_of(module)
    assert room in RANK, f"{room} has no place in the house"
    for imported_room in own(TREES[module]) - {room}:
        if imported_room == "sandbox":
            assert room == "cli", "only the command line puts the sandbox under the product"
        else:
            assert RANK[imported_room] <= RANK[room], f"{module} may not import {imported_room}"


@pytest.mark.parametrize("module", SANDBOX)
def test_the_sandbox_imports_nothing_of_the_product(module: str) -> None:
    assert own(TREES[module]) <= {"sandbox"}


@pytest.mark.parametrize("module", list(TREES))
def test_each_library_is_imported_only_where_it_may_be(module: str) -> None:
    for library in {name.partition(".")[0] for name in imported(TREES[module])} & set(MAY_IMPORT):
        assert {module, room_of(module)} & MAY_IMPORT[library], f"{module} imports {library}"


@pytest.mark.parametrize("module", OURS)
def test_privileges_stay_in_their_rooms(module: str) -> None:
    room = room_of(module)
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "Permit" or room == "guard", "only the guard makes a Permit"
            assert called not in {"print", "sys.stdout.write"} or room == "cli", f"{module} prints"
            clocks = {"time.time", "time.monotonic", "datetime.now", "time.perf_counter"}
            assert called not in clocks, f"{module} reads the clock; take it as an argument with a default"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}:
            # who may come in over HTTP is nobody else's affair, and stdio need not read it
            assert room in {"settings", "access", "environment"}, f"{module} reads the environment"


@pytest.mark.parametrize("module", list(TREES))
def test_nothing_catches_whatever_comes(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None
            assert ast.unparse(node.type) not in {"Exception", "BaseException"}


@pytest.mark.parametrize("module", OURS)
def test_our_errors_are_caught_only_where_they_are_answered(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else set()
            assert not caught & OUR_ERRORS or room_of(module) in MAY_CATCH, f"{module} catches {caught}"


@pytest.mark.parametrize("module", list(TREES))
def test_rooms_and_functions_stay_small(module: str) -> None:
    path = next(path for path in MODULES if name_of(path) == module)
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, f"{module}.{node.name}"


def lines_of_code(path: Path) -> int:
    """Without blank lines, comments and docstrings: what explains the code does not count against it."""
    lines: set[int] = set()
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type not in NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def test_the_whole_stays_within_its_budget() -> None:
    for_many = {"engine", "ledger.redis", "archive.redis"}
    names = {path: name_of(path) for path in MODULES}
    counted = [
        path
        for path, name in names.items()
        if room_of(name) not in {"sandbox", "cli"} and not any(name.startswith(one) for one in for_many)
    ]
    assert sum(map(lines_of_code, counted)) < 9500


@pytest.mark.parametrize("module", OURS)
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(TREES[module])

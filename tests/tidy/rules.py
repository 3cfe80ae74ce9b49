"""The rules of the tree. Each takes a Tree and yields (path, line, sentence) for every violation."""

import ast
import pathlib
import re

from source_text import cpp_functions, strip_cpp

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
BASE_HEADERS_MAX = 20
CPP_COLUMNS_MAX = 100
TEXT_COLUMNS_MAX = 120
LONG_FUNCTIONS = "tests/tidy/long_functions.txt"
LAYERS = "docs/layers.txt"
METRICS = "docs/metrics.md"
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
BANNED_FOLDER_NAMES = {"utils", "util", "common", "misc"}
# Spelled in halves, so that this file does not break its own rule.
BANNED_WORDS = re.compile(r"\b(?:FIX" r"ME|TO" r"DO|XX" r"X)\b")
CODE_ENDINGS = (".cc", ".h", ".inl", ".cu", ".cuh", ".proto", ".py", ".sh", ".cmake", "CMakeLists.txt")


def line_of(text, position):
    return text.count("\n", 0, position) + 1


# ---- who includes whom -------------------------------------------------------------------------------------------

def read_layers(tree):
    """{folder: set of folders it may include}, `lib/*` spelled out."""
    layers = {}
    for line in tree.lines(LAYERS):
        if line.strip() and not line.startswith("#"):
            folder, _, allowed = line.partition(":")
            layers[folder.strip()] = allowed.split()
    libraries = [f for f in layers if f.startswith("lib/")]
    return {folder: {f for name in allowed for f in (libraries if name == "lib/*" else [name])}
            for folder, allowed in layers.items()}


def folder_of(path, layers):
    return next((f for f in sorted(layers, key=len, reverse=True) if path.startswith(f + "/")), None)


def may_include_grpc(path):
    return path.startswith("lib/rpc/") or path.endswith(("_service.cc", "grpc_client.cc"))


def includes(tree, path):
    text = strip_cpp(tree.text(path), keep_strings=True)
    for match in INCLUDE.finditer(text):
        yield line_of(text, match.start(2)), match.group(1) == '"', match.group(2)


def check_one_include(tree, layers, path, quoted, target):
    folder, target_folder = folder_of(path, layers), folder_of(target, layers)
    if target.startswith(("grpcpp/", "grpc/", "grpc++/")) or target.endswith(".grpc.pb.h"):
        if not may_include_grpc(path):
            return f"includes {target}: only lib/rpc, *_service.cc and grpc_client.cc may"
    if target_folder is None:
        beside = (pathlib.PurePosixPath(path).parent / target).as_posix()
        if quoted and tree.exists(beside):
            return f'includes "{target}": write the path from the root'
        return None
    if not target.startswith("proto/") and not tree.exists(target):
        return f"includes {target}, which does not exist"
    if target_folder != folder and target_folder not in layers[folder]:
        return f"{folder} includes {target}: {LAYERS} does not allow {target_folder}"
    return None


def test_only_files(tree):
    """Test sources, and headers (with their .cc) that only those include: a fake beside the code it stands for."""
    includers = {}
    for path in tree.cpp():
        for _, _, target in includes(tree, path):
            if target.rsplit(".", 1)[0] != path.rsplit(".", 1)[0]:
                includers.setdefault(target, set()).add(path)
    test_only = {p for p in tree.cpp() if p.endswith("_test.cc") or p.startswith("tests/")}
    while True:
        more = {h for h, users in includers.items() if h not in test_only and users <= test_only and tree.exists(h)}
        if not more:
            return test_only
        test_only |= more | {h.removesuffix(".h") + ".cc" for h in more}


def layers_hold(tree):
    layers = read_layers(tree)
    test_only = test_only_files(tree)
    for path in tree.cpp():
        if folder_of(path, layers) is None or path in test_only:
            continue
        for line, quoted, target in includes(tree, path):
            complaint = check_one_include(tree, layers, path, quoted, target)
            if complaint:
                yield path, line, complaint


KERNELS_MAY_NOT = re.compile(r"^(thread|mutex|chrono|condition_variable|future|lib/base/clock\.h|"
                             r"lib/base/thread_pool\.h|absl/synchronization/.*|absl/time/.*)$")


def kernels_are_arithmetic(tree):
    for path in tree.cpp():
        if path.startswith("lib/kernels/") and not path.endswith("_test.cc"):
            for line, _, target in includes(tree, path):
                if KERNELS_MAY_NOT.match(target):
                    yield path, line, f"includes {target}: a kernel knows no threads and no clocks"


# ---- size --------------------------------------------------------------------------------------------------------

def files_are_short(tree):
    for path in tree.having(*CODE_ENDINGS):
        lines = len(tree.lines(path))
        if lines > FILE_LINES_MAX:
            yield path, lines, f"has {lines} lines, {FILE_LINES_MAX} at most"


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def all_functions(tree):
    for path in tree.cpp() + tree.having(".py"):
        finder = python_functions if path.endswith(".py") else cpp_functions
        for name, line, lines in finder(tree.text(path)):
            yield path, name, line, lines


def read_long_functions(tree):
    """{(path, name): (lines allowed, line in the list)}; an entry is `path name lines  # why`."""
    allowed = {}
    for number, line in enumerate(tree.lines(LONG_FUNCTIONS), 1):
        fields = line.split("#")[0].split()
        if fields:
            path, name, lines = fields
            allowed[path, name] = (int(lines), number)
    return allowed


def functions_are_short(tree):
    allowed = read_long_functions(tree)
    longest = {}
    for path, name, line, lines in all_functions(tree):
        if lines > FUNCTION_LINES_MAX:
            longest[path, name] = max(longest.get((path, name), 0), lines)
            limit = allowed.get((path, name), (FUNCTION_LINES_MAX, 0))[0]
            if lines > limit:
                yield path, line, f"function {name} has {lines} lines, {limit} at most"
    for (path, name), (limit, number) in allowed.items():
        if longest.get((path, name), 0) < limit:
            yield (LONG_FUNCTIONS, number, f"{name} in {path} is down to {longest.get((path, name), 0)} "
                   f"lines from {limit}: lower or remove the entry, the list only shrinks")


def base_stays_small(tree):
    headers = [p for p in tree.having(".h") if p.startswith("lib/base/")]
    if len(headers) > BASE_HEADERS_MAX:
        yield "lib/base", 0, f"has {len(headers)} headers, {BASE_HEADERS_MAX} at most"


# ---- build -------------------------------------------------------------------------------------------------------

def cmake_patterns(tree):
    """Regular expressions of every file named in a CMakeLists.txt; ${variables} match anything."""
    patterns = []
    for path in tree.having("CMakeLists.txt", ".cmake"):
        folder = pathlib.PurePosixPath(path).parent.as_posix()
        text = re.sub(r"#[^\n]*", "", tree.text(path))
        for token in re.findall(r'[^\s()"<>;]+\.(?:cc|h|cu|cuh|proto|py)\b', text):
            token = token.replace("${CMAKE_SOURCE_DIR}/", "/").replace("${CMAKE_CURRENT_SOURCE_DIR}/", "")
            # Scripts of tests are named from the root, because that is where tests run.
            names = [token[1:]] if token.startswith("/") else [f"{folder}/{token}".removeprefix("./"), token]
            for name in names:
                patterns.append(".*".join(re.escape(p) for p in re.split(r"\$\{\w+\}", name)))
    return re.compile("|".join(f"(?:{p})" for p in patterns) or "$^")


def sources_are_built(tree):
    named = cmake_patterns(tree)
    for path in tree.having(".cc", ".h", ".cu", ".cuh", ".proto", "_test.py"):
        if not named.fullmatch(path):
            yield path, 1, "is named in no CMakeLists.txt: it is neither built nor tested"


# ---- style -------------------------------------------------------------------------------------------------------

def headers_say_why(tree):
    for path in tree.having(".h", ".cuh"):
        if not tree.text(path).startswith("//"):
            yield path, 1, "opens without a comment that says why the header exists"
        if not re.search(r"^#pragma once$|^//.*\bNo include guard: ", tree.text(path), re.M):
            yield path, 1, "has no #pragma once, nor a comment `No include guard: <why>`"


def is_unbreakable(path, line):
    """A URL, a row of a Markdown table, a C++ raw string; in tests/golden also the template texts that scripts hold."""
    return ("://" in line or (path.endswith(".md") and line.lstrip().startswith("|")) or
            (path.endswith((".cc", ".h")) and 'R"' in line) or
            (path.startswith("tests/golden/") and path.endswith(".py")))


def lines_fit(tree):
    limits = [(p, CPP_COLUMNS_MAX) for p in tree.cpp()]
    limits += [(p, TEXT_COLUMNS_MAX) for p in tree.having(".md", ".py", ".sh")]
    for path, limit in limits:
        for number, line in enumerate(tree.lines(path), 1):
            if len(line) > limit and not is_unbreakable(path, line):
                yield path, number, f"is {len(line)} columns wide, {limit} at most"


def no_leftovers(tree):
    for path in tree.having(*CODE_ENDINGS, ".md", ".yaml", ".yml"):
        for number, line in enumerate(tree.lines(path), 1):
            if (word := BANNED_WORDS.search(line)):
                yield path, number, f"holds a {word.group(0)}: do it or drop it"
            if "\t" in line:
                yield path, number, "holds a tab"


def folders_have_a_reason(tree):
    for path in tree.paths:
        for part in pathlib.PurePosixPath(path).parts[:-1]:
            if part in BANNED_FOLDER_NAMES:
                yield path, 0, f"lies in a folder called {part}, which says nothing"


def scripts_can_run(tree):
    for path in tree.scripts():
        if path.endswith(".sh") and not tree.has_shebang(path):
            yield path, 1, "has no #! line"
        if tree.has_shebang(path) and not tree.is_executable(path):
            yield path, 1, "has a #! line but is not executable"


# ---- what is documented ------------------------------------------------------------------------------------------

METRIC = re.compile(r'\b(?:Counter|Gauge|Histogram)\(\s*"(tandem_[a-z0-9_]+)"')


def metric_literals(tree):
    for path in tree.cpp():
        if path.startswith("tests/") or path.endswith("_test.cc"):
            continue
        text = strip_cpp(tree.text(path), keep_strings=True)
        for match in METRIC.finditer(text):
            yield path, line_of(text, match.start(1)), match.group(1)


def metrics_are_documented(tree):
    rows = [(n, m.group(1)) for n, line in enumerate(tree.lines(METRICS), 1)
            if (m := re.match(r"\|\s*`(tandem_[a-z0-9_]+)`", line))]
    documented, counted = {name for _, name in rows}, set()
    for path, line, name in metric_literals(tree):
        counted.add(name)
        if name not in documented:
            yield path, line, f"counts {name}, which {METRICS} does not list"
    for line, name in rows:
        if name not in counted:
            yield METRICS, line, f"lists {name}, which no code counts"


PROTO_FIELD = re.compile(r"^\s*(?:repeated |optional )?(?:map<[^>]+>|[\w.]+) (\w+) = \d+[^;]*;(.*)$")


def proto_fields_are_explained(tree):
    for path in tree.having(".proto"):
        explained = [False]  # one entry per open brace: does a comment stand above it
        above = ""
        for number, line in enumerate(tree.lines(path), 1):
            code = line.split("//")[0]
            field = PROTO_FIELD.match(line)
            if field and len(explained) > 1 and not re.match(r"\s*\w+ = ", line):
                commented = "//" in field.group(2) or above.startswith("//")
                if not commented and not any(explained):
                    yield path, number, f"field {field.group(1)} has no comment, nor has its message"
            for brace in re.findall(r"[{}]", code):
                if brace == "{":
                    explained.append(above.startswith("//") or "//" in line)
                else:
                    explained.pop()
            above = line.strip()


RULES = [
    layers_hold,
    kernels_are_arithmetic,
    files_are_short,
    functions_are_short,
    base_stays_small,
    sources_are_built,
    headers_say_why,
    lines_fit,
    no_leftovers,
    folders_have_a_reason,
    scripts_can_run,
    metrics_are_documented,
    proto_fields_are_explained,
]


def violations(tree):
    for rule in RULES:
        for path, line, sentence in rule(tree):
            yield rule.__name__, path, line, sentence

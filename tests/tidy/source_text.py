"""Reading C++ just well enough to judge it: comments and literals blanked out, function bodies measured.

A compiler would be exact, but the tidy test must run in a second on a machine with nothing but Python.
The finder only has to be right about code that clang-format has laid out.
"""

import re

RAW_STRING = re.compile(r'R"([^()\\ ]{0,16})\(')
# What opens a brace that is not a function: `namespace x {`, `class X {`, `enum class X {`, `extern "C" {`.
CONTAINER = re.compile(r"^(?:\s*(?:template\s*<.*>|inline|typedef|static|const|constexpr)\s*)*"
                       r"(?:namespace|class|struct|union|enum|extern)\b", re.S)
ATTRIBUTE_MACRO = re.compile(r"^[A-Z]+_[A-Z0-9_]*$")


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


def _literal_end(text, start):
    """Index after the string or character literal that starts at `start`."""
    quote = text[start]
    i = start + 1
    while i < len(text) and text[i] != quote and text[i] != "\n":
        i += 2 if text[i] == "\\" else 1
    return min(i + 1, len(text))


def strip_cpp(text, keep_strings=False):
    """The text with comments (and string contents, unless kept) turned into spaces; line numbers stay."""
    out, i = [], 0
    while i < len(text):
        end, keep = i + 1, True
        if text.startswith("//", i):
            end, keep = text.find("\n", i), False
            end = len(text) if end < 0 else end
        elif text.startswith("/*", i):
            end, keep = text.find("*/", i + 2), False
            end = len(text) if end < 0 else end + 2
        elif text[i] == "R" and (raw := RAW_STRING.match(text, i)) and not text[i - 1:i].isalnum():
            end, keep = text.find(")" + raw.group(1) + '"', raw.end()), keep_strings
            end = len(text) if end < 0 else end + len(raw.group(1)) + 2
        elif text[i] == '"':
            end, keep = _literal_end(text, i), keep_strings
        elif text[i] == "'" and not (text[i - 1:i].isalnum() and text[i + 1:i + 2].isalnum()):
            end, keep = _literal_end(text, i), keep_strings  # not the separator of 1'000
        out.append(text[i:end] if keep else _blank(text[i:end]))
        i = end
    return "".join(out)


def _drop_directives(text):
    """Blanks preprocessor directives with their continuation lines: a macro's braces balance only when used."""
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: _blank(m.group(0)), text, flags=re.M)


def _matching_brace(text, start):
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i
    return len(text) - 1


def _function_name(head):
    before = head.split("(")[0].strip()
    if re.fullmatch(r"TEST|TEST_F|TEST_P|TYPED_TEST|BENCHMARK_\w+", before):
        return re.sub(r"\s+", "", head.strip())
    words = re.findall(r"[\w:~]+|operator\S*", before)
    words = [w for w in words if not ATTRIBUTE_MACRO.match(w)] or words
    return words[-1] if words else "?"


def cpp_functions(text):
    """(name, first line, lines) of every function body, from its `{` to its `}`."""
    text = _drop_directives(strip_cpp(text))
    found, i, head_start = [], 0, 0
    while i < len(text):
        c = text[i]
        if c in ";}":
            head_start = i + 1
        elif c == "{":
            head = text[head_start:i]
            if not CONTAINER.match(head.lstrip() or head):
                end = _matching_brace(text, i)
                if "(" in head and not head.rstrip().endswith("="):
                    first = text.count("\n", 0, i) + 1
                    found.append((_function_name(head), first, text.count("\n", i, end) + 1))
                i = end
            head_start = i + 1
        i += 1
    return found

#!/usr/bin/env python3
"""Makes every golden set again with the installed packages and compares it with the committed one.

Byte for byte (compressed files after unpacking): token ids, template renders, dequantized blocks,
containers, models, expert choices, prompts; tables that were pasted into C++. Within a tolerance:

  * float64 logits: 1e-9 of the largest one. Sums of at most 64 terms through three layers lose some
    1e-13 of it in another order; a mistake, or float32 somewhere (6e-8), is far above 1e-9.
  * log-probabilities of llama.cpp and transformers: the noise that tests/golden/quiz/MANIFEST.json
    records for the same engine summing in another order (batch 8 against 512).

Manifests must say the same but for date, command, system and Python's patch version.
"""

import array
import json
import math
import pathlib
import re
import sys
import tempfile
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import live_support  # noqa: E402
from live_support import DATA, ROOT  # noqa: E402

GOLDEN = ROOT / "tests/golden"
LOGIT_TOLERANCE = 1e-9  # of the largest logit
# A mean over 200 prompts of a heavy-tailed quantity scatters; so do maxima.
SAFETY = 3
KINDS = ("bf16", "q8_0", "q4_K_M", "iq1_s")
TOP = 64  # log-probabilities kept per prompt
VARIES = {"made", "date", "command", "python", "llama_system"}  # keys of a manifest
WAIT_S_MAX = 1800


def make(script, *arguments):
    return live_support.run(sys.executable, GOLDEN / script, *arguments, wait_s_max=WAIT_S_MAX)


def content(path):
    data = path.read_bytes()
    return zlib.decompress(data) if path.suffix == ".z" else data


def compare_files(checks, name, made, committed, except_for=lambda path: False):
    """Every file below `made` equals the one in `committed`."""
    files = [
        p.relative_to(made) for p in sorted(made.rglob("*")) if p.is_file() and not except_for(p)
    ]
    other = [
        str(f)
        for f in files
        if not (committed / f).is_file() or content(made / f) != content(committed / f)
    ]
    checks.expect(
        name,
        files and not other,
        f"{len(files)} files made again, {'other: ' + ', '.join(other) if other else 'all equal'}",
    )


def compare_manifests(checks, name, made, committed, varies=frozenset()):
    """The JSON manifests, without what may differ at the top level."""
    one, two = (
        {
            k: v
            for k, v in json.loads((folder / "MANIFEST.json").read_text()).items()
            if k not in VARIES | varies
        }
        for folder in (made, committed)
    )
    other = [key for key in one.keys() | two.keys() if one.get(key) != two.get(key)]
    checks.expect(
        f"{name} manifest",
        not other,
        f"{len(two)} entries, {'other: ' + ', '.join(other) if other else 'all equal'}",
    )


def is_manifest(path):
    return path.name == "MANIFEST.json"


def check_tensor(checks, out):
    """Dequantized blocks, encoders, containers."""
    make("tensor/make_tensor_goldens.py", "--out", out)
    compare_files(checks, "tensor", out, GOLDEN / "tensor", is_manifest)
    compare_manifests(checks, "tensor", out, GOLDEN / "tensor")


def check_fp8(checks, out):
    """Block-scaled e4m3 values."""
    make("fp8/make_fp8.py", "--out", out)
    compare_files(checks, "fp8", out, GOLDEN / "fp8")


def check_grids(checks, _out):
    """The codebooks in lib/tensor/iquant_grids.cc and their digests in its test."""
    printed = make("tensor/make_grid_bitmaps.py")
    words = re.findall(r"0x[0-9a-f]{16}", printed)
    found = re.findall(r"0x[0-9a-f]{16}", (ROOT / "lib/tensor/iquant_grids.cc").read_text())
    checks.expect(
        "grid bitmaps",
        words and words == found,
        f"{len(words)} words printed, {len(found)} in iquant_grids.cc",
    )
    digests = re.findall(r"table  sha256 (\w{64})", printed)
    test = re.sub(r'"\s*"', "", (ROOT / "lib/tensor/iquant_grids_test.cc").read_text())
    missing = [d for d in digests if d not in test]
    checks.expect(
        "grid digests",
        digests and not missing,
        f"{len(digests)} printed, {len(missing)} not in iquant_grids_test.cc",
    )


def check_unicode(checks, _out):
    """Characters the system's PCRE2 does not know yet: lib/model/text/unicode_newcomers.h."""
    pattern = r"\{0x(\w+), 0x(\w+), 0x(\w+)\}"
    printed = re.findall(pattern, make("text/make_unicode_ranges.py"))
    found = re.findall(pattern, (ROOT / "lib/model/text/unicode_newcomers.h").read_text())
    checks.expect(
        "unicode newcomers",
        printed and printed == found,
        f"{len(printed)} ranges printed, {len(found)} in unicode_newcomers.h",
    )


def check_text(checks, out):
    """Token ids of tokenizers and tiktoken, conversations rendered by jinja2."""
    if not (DATA / "tokenizer_deepseek_v3/tokenizer.json").is_file():
        checks.skip("text", f"no tokenizer_deepseek_v3 in {DATA}; TANDEM_DATA names its folder")
        return
    make("text/make_text_goldens.py", "--out", out, DATA)
    compare_files(checks, "text", out, GOLDEN / "text", is_manifest)
    # "files" holds sizes of compressed files: zlib's business.
    compare_manifests(checks, "text", out, GOLDEN / "text", frozenset({"files"}))


def read_array(path, code):
    values = array.array(code, path.read_bytes())
    if sys.byteorder != "little":
        values.byteswap()
    return values


def check_logits(checks, out):
    """Tiny models, the experts they choose, their float64 logits."""
    make("make_logits.py", "--out", out)
    inexact = lambda path: path.name in ("logits.f64", "MANIFEST.json")  # noqa: E731
    compare_files(checks, "logits, models", out, GOLDEN / "logits", inexact)
    for folder in sorted(p for p in (GOLDEN / "logits").iterdir() if p.is_dir()):
        old, new = (
            read_array(place / folder.name / "logits.f64", "d")
            for place in (GOLDEN / "logits", out)
        )
        error = (
            max(abs(a - b) for a, b in zip(old, new)) / max(map(abs, old))
            if len(old) == len(new)
            else math.inf
        )
        checks.expect(
            f"logits, {folder.name}",
            error <= LOGIT_TOLERANCE,
            f"{len(new)} values, largest difference {error:.2g} of the largest, allowed"
            f" {LOGIT_TOLERANCE:.0g}",
        )
    compare_manifests(checks, "logits", out, GOLDEN / "logits", frozenset({"models"}))


def rows(folder, variant):
    """Per prompt {id: log-probability}, most likely first."""
    ids, values = read_array(folder / f"{variant}.ids.u16", "H"), read_array(
        folder / f"{variant}.logprob.f32", "f"
    )
    return [dict(zip(ids[i : i + TOP], values[i : i + TOP])) for i in range(0, len(ids), TOP)]


def divergence(p, q):
    """KL(p || q) over the tokens both list and one bucket for the rest."""
    shared = [t for t in p if t in q]
    total = sum(math.exp(p[t]) * (p[t] - q[t]) for t in shared)
    p_rest, q_rest = 1 - sum(math.exp(p[t]) for t in shared), 1 - sum(
        math.exp(q[t]) for t in shared
    )
    return total + (p_rest * math.log(p_rest / max(q_rest, 1e-9)) if p_rest > 1e-6 else 0)


def check_variant(checks, variant, out, noise):
    """Mean KL, and the best token wherever the two best were further apart than the noise."""
    old, new = rows(GOLDEN / "quiz", variant), rows(out, variant)
    mean = sum(map(divergence, old, new)) / len(old) if len(old) == len(new) else math.inf
    # float32 keeps 24 bits: sums of some 64 probabilities are exact to about 1e-6.
    allowed = SAFETY * max(n["kl_mean"] for n in noise) + 1e-6
    shift = SAFETY * max(n["max_abs_logprob_diff_top8"] for n in noise)
    best = [sorted(row.values(), reverse=True)[:2] for row in old]
    other = sum(
        next(iter(a)) != next(iter(b)) and top[0] - top[1] > shift
        for a, b, top in zip(old, new, best)
    )
    same = sum(list(a.items()) == list(b.items()) for a, b in zip(old, new))
    checks.expect(
        f"quiz, {variant}",
        abs(mean) <= allowed and other == 0,
        f"mean KL {mean:.2g}, allowed {allowed:.2g}; {same} of {len(old)} prompts equal bit for"
        f" bit, {other} other best tokens",
    )


def check_quiz(checks, out):
    """What llama.cpp and transformers answer to 200 prompts."""
    make("make_quiz_reference.py", "--vectors-only", "--out", out)
    checks.expect(
        "quiz, prompts",
        (out / "prompts.json").read_bytes() == (GOLDEN / "quiz/prompts.json").read_bytes(),
        "token ids byte for byte",
    )
    noise = json.loads((GOLDEN / "quiz/MANIFEST.json").read_text())["noise"]
    for kind in KINDS:
        check_variant(checks, f"llama_{kind}", out, [noise[f"{kind}: batch 8 against 512"]])
    check_variant(
        checks, "transformers_f32", out, [noise[f"{kind}: batch 8 against 512"] for kind in KINDS]
    )


def check_quantized(checks, out):
    """GGUF files of the quiz: the converted one and the kinds without importance matrix."""
    import hashlib

    out.mkdir()
    bf16 = out / "bf16.gguf"
    tool = lambda name, *rest: live_support.run(
        sys.executable, ROOT / "tools/quiz" / name, *rest, wait_s_max=WAIT_S_MAX
    )  # noqa: E731
    tool("to_gguf.py", "--model", ROOT / "models/quiz", "--out", bf16)
    hashes = json.loads((GOLDEN / "quiz/MANIFEST.json").read_text())["gguf_sha256"]
    found = hashlib.sha256(bf16.read_bytes()).hexdigest()
    checks.expect("quiz, bf16 file", found == hashes["bf16"], f"sha256 {found}")
    for kind in ("q8_0", "q4_K_M"):
        tool("quantize.py", "--gguf", bf16, "--kind", kind, "--out", out / kind)
        committed = ROOT / "models/quiz/gguf" / f"quiz-{kind.upper()}.gguf"
        checks.expect(
            f"quiz, {kind} file",
            (out / kind).read_bytes() == committed.read_bytes(),
            f"{(out / kind).stat().st_size} bytes made again",
        )


SETS = {
    "tensor": check_tensor,
    "fp8": check_fp8,
    "grids": check_grids,
    "unicode": check_unicode,
    "logits": check_logits,
    "quantized": check_quantized,
    "quiz": check_quiz,
    "text": check_text,
}


def main():
    arguments = live_support.parse_arguments(
        __doc__,
        lambda p: p.add_argument(
            "--sets", nargs="+", choices=SETS, default=list(SETS), help="only these (default: all)"
        ),
    )
    checks = live_support.Checks()
    with tempfile.TemporaryDirectory(prefix="tandem_goldens_") as folder:
        for name in arguments.sets:
            with checks.guarded(name):
                SETS[name](checks, pathlib.Path(folder, name))
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The result table with llama.cpp's OpenAI server as the baseline, on the shipped quiz model.

Writes the checkpoint as a bf16 GGUF file, serves it with llama_cpp.server, and runs `tandem-eval table` for the row of
bf16 experts against it: both must answer alike, and the letters' probabilities must be as near as those of two correct
engines. With --out FOLDER all rows are measured over the whole quiz and the table is kept there.
"""

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import live_support  # noqa: E402
from live_support import ROOT  # noqa: E402

QUESTIONS = 100
# Mean divergence of two bf16 engines over the letters. The whole vocabulary's noise is in the manifest of the quiz
# vectors (transformers in bf16 and llama.cpp, each against float32); a letter's share of the probability only makes it
# smaller, and 3 covers the scatter of a mean over a hundred questions, as in cluster_live.py.
SAFETY = 3


def arguments(parser):
    parser.add_argument("--out", help="keep the table of all rows here")
    parser.add_argument("--resume", action="store_true", help="go on with the table in --out")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def llama_server(model):
    """URL of the OpenAI endpoint while it lasts."""
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--model_alias", "quiz",
               "--host", "127.0.0.1", "--port", str(port), "--n_ctx", "4096", "--logits_all", "true",
               "--interrupt_requests", "false"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        url = f"http://127.0.0.1:{port}/v1"
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{url}/models", timeout=2)
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        sys.exit("llama_cpp.server did not start:\n" + log.read().decode(errors="replace")[-2000:])
                    time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()


def check(checks, table):
    section = table["sections"][0]
    row = section["rows"][0]
    paired = row["to_baseline"]
    checks.expect("no question was lost", section["baseline"]["failed"] == row["score"]["failed"] == 0,
                  f"{row['score']['answered']} answered by both")
    checks.expect("both answer alike", paired["p"] > 0.05,
                  f"flips {paired['flips_to_wrong']} to wrong, {paired['flips_to_right']} to right, "
                  f"p = {paired['p']:.3g}")
    noise = json.loads((ROOT / "tests/golden/quiz/MANIFEST.json").read_text())["noise"]
    bound = SAFETY * sum(noise[f"{engine}: against transformers_f32"]["kl_mean"]
                         for engine in ("transformers bfloat16", "bf16"))
    letters = paired["letters"]
    checks.expect("the letters' probabilities agree", letters["divergence"] <= bound,
                  f"mean divergence {letters['divergence']:.3g} over {letters['questions']} questions "
                  f"(at most {bound:.3g}), same best letter in {letters['same_best']}")


def check_page(checks, page, table):
    """The page as a real browser draws it, when there is one."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        checks.skip("the page in a browser", "no chromium here")
        return
    drawn = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{page}"],
                           check=True, capture_output=True, text=True, timeout=120).stdout
    body = drawn[drawn.index("<main"):drawn.index("</main>")]
    rows = sum(len(section["rows"]) for section in table["sections"])
    checks.expect("every row is on the page", body.count("</tr>") == rows + len(table["sections"]),
                  f"{body.count('</tr>')} lines of {len(table['sections'])} tables with {rows} rows")
    checks.expect("plots are drawn", body.count("<svg") >= 2 * len(table["sections"]), f"{body.count('<svg')} plots")


def main():
    options = live_support.parse_arguments(__doc__, arguments)
    checks = live_support.Checks()
    with tempfile.TemporaryDirectory(prefix="tandem_table_live_") as folder:
        model = f"{folder}/quiz-BF16.gguf"
        subprocess.run([sys.executable, ROOT / "tools/quiz/to_gguf.py", "--model", ROOT / "models/quiz",
                        "--out", model], check=True, stdout=subprocess.DEVNULL)
        out = options.out or f"{folder}/table"
        with llama_server(model) as url:
            command = [live_support.program("tandem-eval"), "table", "--model", "models/quiz", "--suite", "quiz",
                       "--baseline", url, "--baseline-name", "llama.cpp", "--out", out]
            if not options.out:
                command += ["--rows", "mmlu-1", "--limit", str(QUESTIONS), "--no-noise-run"]
            if options.resume:
                command.append("--resume")
            # Few at a time: the baseline's server works on one question and lets the others wait.
            subprocess.run(command + ["--concurrency", "4"], check=True, cwd=ROOT)
        table = json.loads(pathlib.Path(f"{out}/table.json").read_text())
        check(checks, table)
        check_page(checks, pathlib.Path(f"{out}/table.html").resolve(), table)
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env bash
# All tests, on a bare Debian 12: ./test.sh
#
#   --quick        only the release build and its tests
#   --only A,B     only these steps       --skip A,B    all but these
#   --live         also compare with the originals (torch, transformers, llama.cpp) in a virtual environment
#   --list         names the steps
#
# Each step says how long it took; all of them run even when one fails. The last line is the summary of ctest over the
# release build, or the list of failed steps. Exit code: 0 all passed, 1 something failed, 2 could not start.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$TANDEM_ROOT"

readonly STEPS=(packages format build tests dev tsan clang_tidy live)
readonly RELEASE_LOG="build/release/ctest.log"
readonly FAILED_TESTS="build/failed_tests.txt"
# Files clang-tidy reads: the folders that parse, count and compute without gRPC, whose headers cost seconds a file.
readonly CLANG_TIDY_FOLDERS=(lib/base lib/tensor eval_client/suites eval_client/stats)

describe_steps() {
  cat <<'LIST'
packages    installs missing Debian packages
format      clang-format on every C++ file
build       release build of everything
tests       every test on the release build
dev         clang, AddressSanitizer + UBSan: tests labelled unit, fuzz targets ten seconds each
tsan        ThreadSanitizer: tests labelled concurrency
clang_tidy  clang-tidy on a bounded set of folders
live        with --live: compares with the originals from PyPI
LIST
}

step_packages() { install_packages; }

step_format() {
  find . \( -path ./build -o -path ./.venv -o -path ./.git \) -prune -o \
    \( -name '*.cc' -o -name '*.h' -o -name '*.cu' \) -print0 | xargs -0 -r clang-format --dry-run -Werror
}

step_build() { build_preset release; }

# run_ctest PRESET ARGS...: output on failure only, two at a time at most, so that timing tests keep a core. The names
# of failed tests go to FAILED_TESTS as well: the summary repeats them, far below their output.
run_ctest() {
  local preset="$1" code=0
  shift
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$(build_jobs)" "$@" || code=$?
  local failed="build/$preset/Testing/Temporary/LastTestsFailed.log"
  [[ "$code" == 0 || ! -f "$failed" ]] || sed "s/^[0-9]*:/$preset: /" "$failed" >> "$FAILED_TESTS"
  return "$code"
}

step_tests() { run_ctest release | tee "$RELEASE_LOG"; }

# Builds and runs only the C++ tests with these labels: a whole second build would double the time.
run_labelled() {
  local preset="$1" labels="$2" names targets
  configure_preset "$preset"
  names="$(ctest --test-dir "build/$preset" -N -L "$labels" | sed -n 's/^ *Test *#[0-9]*: //p' | sort)"
  targets="$(ninja -C "build/$preset" -t targets all | sed -n 's/^\([A-Za-z0-9_]*\): phony$/\1/p' | sort)"
  mapfile -t targets < <(comm -12 <(echo "$names") <(echo "$targets"))
  [[ ${#targets[@]} -gt 0 ]] || { say "no test is labelled $labels"; return 1; }
  build_preset "$preset" "${targets[@]}"
  local pattern
  pattern="^($(IFS='|'; echo "${targets[*]}"))\$"
  run_ctest "$preset" -R "$pattern"
}

step_dev() { run_labelled dev 'unit|fuzz'; }
step_tsan() {
  export TSAN_OPTIONS="suppressions=$TANDEM_ROOT/tests/tsan/suppressions.txt halt_on_error=1 second_deadlock_stack=1"
  run_labelled tsan 'concurrency'
}

step_clang_tidy() {
  find "${CLANG_TIDY_FOLDERS[@]}" -name '*.cc' ! -name '*_test.cc' -print0 2>/dev/null |
    xargs -0 -r -n 4 -P "$(build_jobs)" clang-tidy --quiet -p build/release 2>/dev/null
}

step_live() {
  [[ -x .venv/bin/python ]] || python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-live.txt
  local script
  for script in tests/live/*.py; do
    say "$script"
    .venv/bin/python "$script"
  done
}

declare -a TIMES=() FAILED=()

# Runs one step in a subshell with errexit, so that its first failing command ends it. (Bash ignores errexit inside
# anything joined by || or &&, hence the plain call.)
run_step() {
  local name="$1" start=$SECONDS result=ok code
  say "step $name"
  set +e
  (set -euo pipefail; "step_$name")
  code=$?
  set -e
  [[ "$code" == 0 ]] || result=FAILED
  TIMES+=("$(printf '%-11s %6s s  %s' "$name" "$((SECONDS - start))" "$result")")
  [[ "$result" == ok ]] || FAILED+=("$name")
}

choose_steps() {
  local only="packages,format,build,tests,dev,tsan,clang_tidy" skip="" live=0
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --quick) only="packages,build,tests" ;;
      --only) only="${2:?--only needs step names}"; shift ;;
      --skip) skip="${2:?--skip needs step names}"; shift ;;
      --live) live=1 ;;
      --list) describe_steps; exit 0 ;;
      *) cannot_start "unknown option '$1'; expected --quick, --only, --skip, --live or --list" ;;
    esac
    shift
  done
  [[ "$live" == 0 ]] || only="$only,live"
  local name
  for name in ${only//,/ } ${skip//,/ }; do
    [[ " ${STEPS[*]} " == *" $name "* ]] || cannot_start "unknown step '$name'; expected one of: ${STEPS[*]}"
  done
  CHOSEN=()
  for name in "${STEPS[@]}"; do
    [[ ",$only," == *",$name,"* && ",$skip," != *",$name,"* ]] && CHOSEN+=("$name")
  done
  return 0
}

choose_steps "$@"
mkdir -p build
: > "$FAILED_TESTS"
for name in "${CHOSEN[@]}"; do run_step "$name"; done
printf '\n'
printf '%s\n' "${TIMES[@]}"
if [[ ${#FAILED[@]} -gt 0 ]]; then
  printf '\nFAILED: %s\n' "${FAILED[*]}"
  cat "$FAILED_TESTS"
  exit 1
fi
if [[ " ${CHOSEN[*]} " == *" tests "* ]]; then
  printf '\n%s\n' "$(grep -E 'tests passed, .* out of' "$RELEASE_LOG" | tail -n 1)"
fi

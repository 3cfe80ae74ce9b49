#!/usr/bin/env bash
# From a bare Debian 12 to answered questions: ./demo.sh
#
# Installs what is missing, builds ./build/release, starts a coordinator, a GPU worker on the host backend and two CPU
# workers on this machine, asks the quiz model its test questions and ends with the result table. No GPU, no download.
#
#   --questions N   only the first N questions (all by default)
#   --format F      bf16 (default), or that of a GGUF file in models/quiz/gguf: q8_0, q4_K_M, iq1_s
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$TANDEM_ROOT"

questions=0
format=bf16
while [[ $# -gt 0 ]]; do
  case "$1" in
    --questions) questions="${2:-}"; shift ;;
    --format) format="${2:-}"; shift ;;
    --help | -h) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) cannot_start "unknown option '$1'; expected --questions N or --format F" ;;
  esac
  shift || cannot_start "the last option needs a value"
done
[[ "$questions" =~ ^[0-9]+$ ]] || cannot_start "expected a number after --questions, found '$questions'"

# The bf16 checkpoint, or the one GGUF file of that format.
model_path() {
  if [[ "$format" == bf16 ]]; then
    echo models/quiz
    return
  fi
  local found
  mapfile -t found < <(find models/quiz/gguf -iname "*$format*.gguf" | sort)
  [[ ${#found[@]} == 1 ]] ||
    cannot_start "expected one file models/quiz/gguf/*$format*.gguf, found ${#found[@]}; there: $(formats_there)"
  echo "${found[0]}"
}

formats_there() { echo "bf16 $(find models/quiz -name '*.gguf' -printf '%f ' | sed 's/quiz-//g; s/\.gguf//g')"; }

model="$(model_path)"
install_packages
build_preset release programs
limit=()
[[ "$questions" == 0 ]] || limit=(--limit "$questions")
out="build/demo/$format"
rm -rf "$out"  # the run of an earlier demo
say "starting a cluster on this machine with $model; raw answers go to $out"
exec build/release/bin/tandem up --model "$model" --cpu-workers 2 -- \
  build/release/bin/tandem-eval run --suite quiz --data models/quiz/quiz_test.jsonl "${limit[@]}" --out "$out"

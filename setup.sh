#!/usr/bin/env bash
# Set-up shared by demo.sh, test.sh and the images: Debian packages, then a build. Run it alone to do just that:
#   ./setup.sh            installs what is missing and builds ./build/release
#   ./setup.sh packages   installs what is missing, builds nothing
# Safe to run again: what is there already is left alone. The list of packages is cmake/debian-packages.txt.
#
# TANDEM_ALLOW_REMOVALS=1 lets apt remove packages that stand in the way (libboost1.74-dev does).
set -euo pipefail

readonly TANDEM_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly MIB_PER_JOB=1536  # what one compiler needs at worst: a file that includes gRPC, built with a sanitizer

say() { printf '== %s\n' "$*" >&2; }

# One sentence, exit code 2: the same as every program of the project that cannot start.
cannot_start() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 2
}

missing_packages() {
  local package
  grep -v '^#' "$TANDEM_ROOT/cmake/debian-packages.txt" | while read -r package; do
    [[ -z "$package" ]] && continue
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done
}

# apt as root, by sudo where needed; never waits for an answer.
apt_get() {
  local prefix=()
  if [[ "$(id -u)" != 0 ]]; then
    command -v sudo >/dev/null || cannot_start "needs root to install packages, and there is no sudo"
    prefix=(sudo)
  fi
  "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"
}

# Stops before apt would remove anything, unless that was allowed: this may be somebody's own machine.
refuse_removals() {
  local removed
  removed="$(apt_get install --simulate --no-install-recommends "$@" | sed -n 's/^Remv \([^ ]*\).*/\1/p' | xargs)"
  if [[ -n "$removed" && "${TANDEM_ALLOW_REMOVALS:-0}" != 1 ]]; then
    cannot_start "installing $* would remove: $removed; allow it with TANDEM_ALLOW_REMOVALS=1"
  fi
  [[ -z "$removed" ]] || say "removing $removed, which conflict with what is needed"
}

install_packages() {
  command -v dpkg-query >/dev/null || cannot_start "expected Debian 12, found no dpkg; see cmake/debian-packages.txt"
  local missing
  mapfile -t missing < <(missing_packages)
  if [[ ${#missing[@]} == 0 ]]; then
    say "all Debian packages are there"
    return
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  apt_get update >&2
  refuse_removals "${missing[@]}"
  apt_get install -y --no-install-recommends "${missing[@]}" >&2
}

# Memory a build may use, in MiB: what is free, or the container's limit if that is lower.
memory_mib() {
  local free_kib limit_bytes free_mib
  free_kib="$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)"
  free_mib=$((free_kib / 1024))
  limit_bytes="$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)"
  if [[ "$limit_bytes" =~ ^[0-9]+$ && $((limit_bytes >> 20)) -lt "$free_mib" ]]; then
    free_mib=$((limit_bytes >> 20))
  fi
  echo "$free_mib"
}

build_jobs() {
  local by_memory=$(($(memory_mib) / MIB_PER_JOB)) cores
  cores="$(nproc)"
  [[ "$by_memory" -ge 1 ]] || by_memory=1
  echo $((by_memory < cores ? by_memory : cores))
}

# Quiet unless it fails: a hundred lines of "found this, found that" hide the one that matters.
configure_preset() {
  local output
  output="$(cd "$TANDEM_ROOT" && cmake --preset "$1" 2>&1)" || {
    printf '%s\n' "$output" >&2
    return 1
  }
}

# build_preset PRESET [TARGET...]: into ./build/PRESET; all targets when none is named.
build_preset() {
  local preset="$1" jobs targets=()
  shift
  jobs="$(build_jobs)"
  [[ $# == 0 ]] || targets=(--target "$@")
  configure_preset "$preset"
  say "building build/$preset with $jobs jobs"
  (cd "$TANDEM_ROOT" && cmake --build --preset "$preset" -j "$jobs" "${targets[@]}") >&2
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  case "${1:-all}" in
    packages) install_packages ;;
    all) install_packages && build_preset release ;;
    *) cannot_start "expected 'packages' or nothing, found '$1'" ;;
  esac
fi

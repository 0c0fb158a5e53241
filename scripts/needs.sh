# Sourced by scripts/run and scripts/test: installs what is missing, or says which line installs it.
# need COMMAND PACKAGE [WHERE…]: COMMAND on the PATH or at one of the places, else Debian's PACKAGE.

missing=()

need() {
    local command=$1 package=$2 place
    shift 2
    command -v "$command" >/dev/null && return
    for place in "$@"; do
        [[ -x $place ]] && return
    done
    missing+=("$package")
}

install_missing() {
    ((${#missing[@]})) || return 0
    local line="apt-get install -y --no-install-recommends ${missing[*]}"
    local as_root=()
    if ! command -v apt-get >/dev/null; then
        echo "Missing: ${missing[*]} (Debian's names). Install them with your system's package manager." >&2
        exit 1
    fi
    if [[ $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || { echo "Missing: ${missing[*]}. As root: $line" >&2; exit 1; }
        as_root=(sudo)
    fi
    echo "Installing ${missing[*]}"
    # One stale or unreachable source fails the whole update; whether the packages can be had, the next line tells.
    "${as_root[@]}" apt-get update -qq || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive $line >/dev/null || { echo "This failed: $line" >&2; exit 1; }
}

need_cargo() {
    [[ -f $HOME/.cargo/env ]] && . "$HOME/.cargo/env"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
    if [[ -z $found || $(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1) != "$wanted" ]]; then
        echo "Missing: Rust $wanted or later (found: ${found:-none}). Install or update it with rustup." >&2
        exit 1
    fi
}

# Set-up that ./scripts/test, ./scripts/demo and the checks share. Sourced, never run.
#
# `set_up` brings a fresh checkout to the point where everything runs: the system packages (through apt-get, where that is allowed),
# a virtual environment in .venv with the build and development requirements, and the compiled extensions beside their sources.
# What is done is remembered by stamps over everything it depends on, so that a second run only compares hashes.
# Rules: nothing outside the tree changes but by apt-get, which is announced; a tool's output is shown only when it fails.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
VENV=$ROOT/.venv
PY=$VENV/bin/python
MAY_INSTALL=${UFRAG_MAY_INSTALL:-yes} # scripts started by tests inherit what the command line said
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# quietly LABEL COMMAND...: one line with its time; the output only if it fails.
quietly() {
    local label=$1 start=$EPOCHREALTIME log status=0
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        rm -f "$log"
        say "error: $label failed (status $status)"
        return "$status"
    fi
    LAST_LINE=$(tail -n 1 "$log")
    rm -f "$log"
    printf '%-22s %6s s' "$label" "$(elapsed "$start")" >&2
    say "${SHOW_LAST_LINE:+  $LAST_LINE}"
}

elapsed() {
    local microseconds=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
    printf '%d.%d' $((microseconds / 1000000)) $((microseconds / 100000 % 10))
}

stamp_is() { [ -f "$1" ] && [ "$(<"$1")" = "$2" ]; }

# --- the system: Python, its headers, venv, a C compiler ---------------------------------------------------------------------------

# Sets HOST_PYTHON, and what it has: HAS_HEADERS, HAS_VENV, PYTHON_ID (version and file). Fails if no Python is new enough.
find_python() {
    local candidate found
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        command -v "$candidate" >/dev/null || continue
        found=$("$candidate" -c 'if True:
            import os, sys, sysconfig
            from importlib.util import find_spec
            header = os.path.join(sysconfig.get_path("include"), "Python.h")
            if sys.version_info >= (3, 11) and sys.implementation.name == "cpython":
                yes = ["no", "yes"]
                print(yes[os.path.exists(header)], yes[bool(find_spec("venv") and find_spec("ensurepip"))])
                print("%d.%d" % sys.version_info[:2], sys.version.split()[0] + ":" + os.path.realpath(sys.executable))
        ' 2>/dev/null) || continue
        [ -n "$found" ] || continue
        { read -r HAS_HEADERS HAS_VENV; read -r PYTHON_MINOR PYTHON_ID; } <<<"$found"
        HOST_PYTHON=$candidate
        return 0
    done
    return 1
}

is_debian_python() { [[ ${PYTHON_ID#*:} == /usr/bin/* ]]; }

# The Debian packages that are missing, in MISSING. A Python from elsewhere (pyenv, python.org) brings its own headers or cannot be helped.
find_missing() {
    MISSING=()
    if ! find_python; then
        [ -z "${PYTHON:-}" ] || die "$PYTHON is not CPython 3.11 or newer"
        MISSING+=(python3 python3-dev python3-venv)
    else
        if [ "$HAS_HEADERS" = no ]; then
            is_debian_python || die "${PYTHON_ID#*:} was installed without its C headers (Python.h); set PYTHON to another"
            MISSING+=("python$PYTHON_MINOR-dev")
        fi
        if [ "$HAS_VENV" = no ]; then
            is_debian_python || die "${PYTHON_ID#*:} was installed without ensurepip; set PYTHON to another"
            MISSING+=("python$PYTHON_MINOR-venv")
        fi
    fi
    echo '#include <stdlib.h>' | "${CC:-cc}" -E - >/dev/null 2>&1 || MISSING+=(gcc libc6-dev)
}

# apt_install PACKAGE...: as root or with password-less sudo; fails without a word when that may not or cannot be done.
apt_install() {
    local sudo=()
    [ "$MAY_INSTALL" = yes ] && command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        sudo=(sudo -n)
    fi
    say "installing Debian packages: $*"
    quietly "apt-get update" "${sudo[@]}" apt-get update
    quietly "apt-get install" "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

ensure_system() {
    find_missing
    [ ${#MISSING[@]} -eq 0 ] && return
    apt_install "${MISSING[@]}" || die "something is missing, run:  apt-get install ${MISSING[*]}"
    find_missing
    [ ${#MISSING[@]} -eq 0 ] || die "still missing after the installation: ${MISSING[*]}"
}

# --- the tree: .venv and the extensions -------------------------------------------------------------------------------------------

hash_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }
cython_sources() { find _fastpath \( -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \) | LC_ALL=C sort; }

build_requirements() {
    "$PY" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
}

make_venv() {
    rm -rf "$VENV"
    "$HOST_PYTHON" -m venv "$VENV"
}

install_requirements() {
    local requirements
    mapfile -t requirements < <(build_requirements)
    "$PY" -m pip install -q "${requirements[@]}" && "$PY" -m pip install -q --no-build-isolation -e '.[dev,transceiver]'
}

# Every .pyx has its compiled module beside it, for this Python.
extensions_present() {
    local suffix=$1 source
    while read -r source; do
        [ -f "${source%.pyx}$suffix" ] || return 1
    done < <(find _fastpath -name '*.pyx')
}

build_extensions() { "$PY" setup.py -q build_ext --inplace; }

ensure_tree() {
    local venv_id requirements_id sources_id suffix
    venv_id="$PYTHON_ID $ROOT"
    stamp_is "$VENV/stamp-python" "$venv_id" || {
        quietly "virtual environment" make_venv
        printf '%s' "$venv_id" >"$VENV/stamp-python"
    }
    requirements_id=$(hash_of pyproject.toml setup.py)
    sources_id=$(mapfile -t sources < <(cython_sources); { printf '%s\n' "$requirements_id" "${sources[@]}"; cat "${sources[@]}"; } | hash_of)
    if ! stamp_is "$VENV/stamp-requirements" "$requirements_id"; then
        rm -rf build/cython build/temp.* # what an older setup.py made with other flags
        quietly "install and build" install_requirements
        printf '%s' "$requirements_id" >"$VENV/stamp-requirements"
        "$PY" -c 'import sysconfig; print(end=sysconfig.get_config_var("EXT_SUFFIX"))' >"$VENV/stamp-suffix"
        printf '%s' "$sources_id" >"$VENV/stamp-sources"
    fi
    suffix=$(<"$VENV/stamp-suffix")
    if ! stamp_is "$VENV/stamp-sources" "$sources_id" || ! extensions_present "$suffix"; then
        quietly "build extensions" build_extensions
        printf '%s' "$sources_id" >"$VENV/stamp-sources"
    fi
}

# --- other builds of the same sources, each in a directory of its own under build/ ------------------------------------------------

package_sources() {
    find _fastpath relay transceiver setup.py pyproject.toml -type f ! -name '*.so' ! -name '*.py[co]' | LC_ALL=C sort
}

# Empties a build directory but for the compiled modules whose source still exists: those are rebuilt only when they are older.
prune_site() {
    local module source
    mkdir -p "$1"
    find "$1" -type f ! -name '*.so' -delete
    find "$1" -name '*.so' | while read -r module; do
        source=${module#"$1"/}
        [ -f "${source%%.*}.pyx" ] || rm "$module"
    done
}

# What mostly runs Python, or the same compiled code many times over: minutes under an emulator or sanitizers, which only
# `./scripts/test --full` takes.
REPEATING='test_(calls|caller|dtls|http|ice|sctp|sdp|srtp|swarm|transceiver|virtual)'

# find_compiled_tests [--packages DIR]: sets COMPILED_TESTS, what says something about such a build; see the script.
find_compiled_tests() {
    local leave_out=$REPEATING
    [ "${UFRAG_TEST_PROFILE:-}" != full ] || leave_out='^$'
    mapfile -t COMPILED_TESTS < <("$PY" -m scripts.compiled_tests "$@" | grep -vE "$leave_out")
    [ ${#COMPILED_TESTS[@]} -gt 0 ]
}

# A test started in the tree would import the tree's own build, so the tests go where the other build is.
copy_tests() {
    rm -rf "$1/tests" "$1/benchmarks" "$1/scripts"
    cp -r tests benchmarks scripts pyproject.toml "$1/"
}

set_up() {
    [ "$(uname -s)" = Linux ] || die "ufrag runs on Linux only"
    ensure_system
    ensure_tree
}

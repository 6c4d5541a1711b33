#!/usr/bin/env bash
# Runs theupdateframework/tuf-conformance against cairn-tuf. The suite is on no package registry: give a checkout of it in
# CAIRN_TUF_CONFORMANCE. Needs python3 with venv, faketime (apt), and PyPI for what the suite's pyproject.toml names.
set -euo pipefail
suite=${CAIRN_TUF_CONFORMANCE:?set it to a checkout of theupdateframework/tuf-conformance}
suite=$(realpath "$suite")
command -v faketime >/dev/null || { echo "conformance: faketime is missing: apt-get install faketime" >&2; exit 1; }
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../..")
cargo=${CARGO:-cargo}

"$cargo" build --quiet --manifest-path "$root/Cargo.toml" -p cairn-bundle --features cairn-tuf --bin cairn-tuf
client=${CARGO_TARGET_DIR:-$root/target}/debug/cairn-tuf

mapfile -t needs < <(python3 - "$suite/pyproject.toml" <<'PY'
import sys, tomllib
print("\n".join(tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"]))
PY
)
key=$(printf '%s\n' "$(python3 --version)" "${needs[@]}" | sha256sum | cut -c1-16)
env=${XDG_CACHE_HOME:-$HOME/.cache}/cairn/tuf-conformance/$key
if [ ! -e "$env/complete" ]; then
  rm -rf "$env"
  python3 -m venv "$env"
  "$env/bin/python" -m pip --quiet --disable-pip-version-check install "${needs[@]}"
  touch "$env/complete"
fi
cd "$suite"
PYTHONDONTWRITEBYTECODE=1 "$env/bin/python" -m pytest -p no:cacheprovider -q tuf_conformance --entrypoint "$client" "$@"

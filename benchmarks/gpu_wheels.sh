#!/usr/bin/env bash
# Run where there is network: downloads wheels for Linux x86-64 that a CUDA machine without network may lack, at the
# versions of constraints.txt. Not torch and what comes with it: that machine brings its own.
#
#     benchmarks/gpu_wheels.sh [PYTHON_VERSION]     # 3.12 by default; writes wheels/
set -euo pipefail
cd "$(dirname "$0")/.."
VERSION=${1:-3.12}
PYTHON=${PYTHON:-.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python3
PACKAGES="annotated-types docstring-parser fsspec iniconfig jinja2 lightning-fabric lightning-utilities markdown-it-py
  markupsafe mdurl packaging pillow pluggy pydantic pydantic-core pygments pytest pyyaml rich safetensors simplejpeg tifffile
  timm typeguard typing-extensions typing-inspection tyro"
# transformers, whose MAE stands beside ours, with what it needs to be imported: hf-xet, for downloads, is not.
PACKAGES="$PACKAGES annotated-doc anyio click filelock h11 httpcore2 httpx2 huggingface-hub idna regex shellingham
  tokenizers tqdm transformers truststore typer"
PLATFORMS=()
for glibc in 28 27 24 17; do PLATFORMS+=(--platform "manylinux_2_${glibc}_x86_64"); done
PLATFORMS+=(--platform manylinux2014_x86_64)

rm -rf wheels
mkdir wheels
pins=()
for name in $PACKAGES; do
  pin=$(grep -E "^$name==" constraints.txt) || { echo "no version of $name in constraints.txt" >&2; exit 1; }
  pins+=("$pin")
done
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version "$VERSION" --implementation cp "${PLATFORMS[@]}" --dest wheels "${pins[@]}"
size=$(du -sm wheels | cut -f1)
echo "$(find wheels -name '*.whl' | wc -l) wheels, $size MB, in wheels/"
[ "$size" -le 40 ] || { echo "more than 40 MB" >&2; exit 1; }

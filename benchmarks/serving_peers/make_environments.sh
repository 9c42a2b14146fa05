#!/bin/sh
# Create an environment for each server in .venv-peers/, with the versions of its constraints file.
#     benchmarks/serving_peers/make_environments.sh [PYTHON]
# The benchmark also needs h2load, which is in Debian's package nghttp2-client.
set -e
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../.venv-peers
python=${1:-python3.11}  # MLServer supports Python up to 3.12, and Triton's stubs up to 3.13

environment() {  # NAME CONSTRAINTS REQUIREMENT...
    name=$1; constraints=$2; shift 2
    installed=$root/$name/.installed
    [ "$installed" -nt "$constraints" ] && [ "$installed" -nt "$0" ] && return
    "$python" -m venv "$root/$name"
    "$root/$name/bin/python" -m pip install --quiet --constraint "$constraints" "$@"
    touch "$installed"
}

peer() {  # NAME REQUIREMENT...
    name=$1; shift
    environment "$name" "$here/constraints-$name.txt" \
        numpy onnxruntime orjson pillow simplejpeg "$@"  # what the decoder and the engine need
}

environment ours "$root/../constraints.txt" --editable "$root/../serve[uvloop]"
peer litserve litserve pyzmq uvloop httptools
peer mlserver mlserver httptools
peer bentoml bentoml uvloop httptools
peer triton "numpy<2"  # the wheel was built for NumPy 1; with NumPy 2, its tensors are wrong
# pytriton's own requirements are not needed for the server in its wheel.
"$root/triton/bin/python" -m pip install --quiet --no-deps nvidia-pytriton==0.7.0

#!/bin/sh
# An environment for each peer under .venv-peers/, with the versions of its constraints file.
#     benchmarks/serving_peers/make_environments.sh [PYTHON]
# The load comes from h2load, which Debian has in nghttp2-client.
set -e
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../.venv-peers
python=${1:-python3.11}  # MLServer stops at 3.12, Triton's stubs at 3.13

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
peer triton "numpy<2"  # which the wheel was built for: later ones garble its tensors
# pytriton's own requirements are not needed for the server in its wheel.
"$root/triton/bin/python" -m pip install --quiet --no-deps nvidia-pytriton==0.7.0

#!/bin/sh
# An environment for each peer under .venv-peers/, with the versions of its constraints file.
#     benchmarks/serving_peers/make_environments.sh [PYTHON]
# The load comes from h2load, which Debian has in nghttp2-client.
set -e
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../.venv-peers
python=${1:-python3.11}  # MLServer stops at 3.12, Triton's stubs at 3.13

environment() {  # NAME REQUIREMENT...
    name=$1; shift
    [ -e "$root/$name/.installed" ] && return
    "$python" -m venv "$root/$name"
    "$root/$name/bin/python" -m pip install --quiet \
        --constraint "$here/constraints-$name.txt" numpy onnxruntime orjson pillow simplejpeg "$@"
    touch "$root/$name/.installed"
}

environment ours --editable "$root/../serve"
environment litserve litserve pyzmq uvloop httptools
environment mlserver mlserver
environment bentoml bentoml
environment triton "numpy<2"  # which the wheel was built for: later ones garble its tensors
# pytriton's own requirements are not needed for the server in its wheel.
"$root/triton/bin/python" -m pip install --quiet --no-deps nvidia-pytriton==0.7.0

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os
from pathlib import Path
from keras_cnns_serve.repository.memory import give_memory_back

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

class Cycle:
    def __init__(self):
        self.blocks = [libc.malloc(50_000) for _ in range(1000)]
        for block in self.blocks:
            ctypes.memset(block, 1, 50_000)
        self.kept = libc.malloc(100)  # the end of the heap
        self.itself = self

    def __del__(self):
        for block in self.blocks:
            libc.free(block)

Cycle()
before = resident()
give_memory_back()
print(before - resident() > 40e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is meant")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr

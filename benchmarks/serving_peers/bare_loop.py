"""The speed without a server: two threads run the decoder and the engine in a loop.

    PYTHON bare_loop.py MODEL_DIRECTORY IMAGE_FILE SECONDS

The script measures batches of 1 and 8 images, and prints the images per second of the faster one.
"""

import sys
import threading
import time
from pathlib import Path

import numpy as np
from classifier import Classifier


def measure(classifier: Classifier, content: bytes, batch: int, seconds: float) -> float:
    """Return the images per second of two threads."""
    counts = [0, 0]
    end = time.perf_counter() + seconds

    def loop(thread: int) -> None:
        while time.perf_counter() < end:
            images = np.stack([classifier.decode(content) for _ in range(batch)])
            for row in classifier.run(images):
                classifier.best(row)
            counts[thread] += batch

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def main() -> None:
    classifier = Classifier(Path(sys.argv[1]))
    content = Path(sys.argv[2]).read_bytes()
    seconds = float(sys.argv[3])
    measure(classifier, content, 1, seconds / 8)
    print(max(measure(classifier, content, batch, seconds / 2) for batch in (1, 8)))


if __name__ == "__main__":
    main()

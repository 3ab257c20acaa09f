"""Copy a file of weights in half precision, metadata included: python runs/halve.py SOURCE TARGET."""

import sys
from pathlib import Path

from wan_alpha.checkpoints.files import read_metadata, read_tensors, write_tensors


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    metadata = {key: value for key, value in read_metadata(source).items() if key != "format"}
    write_tensors(target, {key: tensor.half() for key, tensor in read_tensors(source).items()}, metadata=metadata)


if __name__ == "__main__":
    main()

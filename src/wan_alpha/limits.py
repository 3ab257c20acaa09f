"""The largest clip, whether it is read or asked for: a header may claim anything, and so may a flag. Checked before memory is taken."""

MAX_SIDE = 16384
MAX_PIXELS = 64 * 2**20
"""Of a frame."""
MAX_FRAMES = 100_000
MAX_BYTES = 8 * 2**30
"""As 8-bit RGBA."""

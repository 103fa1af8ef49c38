"""The science: pure functions on `(b, t, ...)` arrays, one paper idea a file."""

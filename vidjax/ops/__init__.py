"""The science: pure functions on `(b, t, ...)` arrays, an idea a file."""

"""The benchmarks: `python -m benchmarks` runs them on the embedded servers and writes docs/reference/performance.md."""

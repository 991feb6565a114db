"""The contexts of runs: so far, how two values of one variable become one."""

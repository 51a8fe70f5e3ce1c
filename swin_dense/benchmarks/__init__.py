"""Speed and memory against other implementations: what ``tools/benchmark.py`` measures."""

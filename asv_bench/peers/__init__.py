"""The same work on attnx and on other engines, side by side: `python -m asv_bench.peers --help`."""

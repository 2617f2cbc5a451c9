"""The report on any number of benchmark runs: one self-contained page, a figure, and tables for a paper."""

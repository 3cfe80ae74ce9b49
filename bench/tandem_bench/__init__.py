"""The driver behind bench/run: builds the C++ programs it needs, runs them, writes results as CSV and as a table."""

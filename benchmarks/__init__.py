"""Speed, measured side by side in one run: `python -m benchmarks` from the folder of the checkout."""
